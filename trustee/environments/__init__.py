"""The worlds that a config may name. A new one is a file here and its name in this union."""

from trustee.environments.microworld import Microworld
from trustee.environments.simulated import Simulated

WorldConfig = Simulated | Microworld
