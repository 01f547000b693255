"""ToolMaster: unknown tools are tried first, then used."""
