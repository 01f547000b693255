"""The transforms that a config may name. A new one is a struct with `draw`, listed here."""

from trustee.environments.trial.transforms.documents import Describe, Recode, Undocument
from trustee.environments.trial.transforms.names import Opaque, Permute
from trustee.environments.trial.transforms.supply import Break, Lookalikes

Transform = Opaque | Permute | Describe | Undocument | Recode | Break | Lookalikes
