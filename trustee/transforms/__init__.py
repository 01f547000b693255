"""The transforms that a config may name. A new one is a struct with `draw`, and its name here."""

from trustee.transforms.documents import Describe, Recode, Undocument
from trustee.transforms.names import Opaque, Permute
from trustee.transforms.supply import Break, Lookalikes

Transform = Opaque | Permute | Describe | Undocument | Recode | Break | Lookalikes
