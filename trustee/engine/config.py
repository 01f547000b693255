"""The engines that a config may name. A new one is a module here and an entry in this union."""

from trustee.engine.scripted import ScriptedConfig
from trustee.engine.vllm import VllmConfig

EngineConfig = VllmConfig | ScriptedConfig
