"""The engines that a config may name. A new one is a file here and its name in this union."""

from trustee.engine.scripted import ScriptedConfig
from trustee.engine.vllm import VllmConfig

EngineConfig = VllmConfig | ScriptedConfig
