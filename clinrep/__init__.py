"""Shared code of the numbered stages ("clinical representations")."""

from clinrep.offline import stay_offline

__version__ = "0.1.0"

stay_offline()  # here, since whatever is imported of this package comes after
