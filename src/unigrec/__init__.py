"""UniGRec: generative recommendation with soft item identifiers, trained and operated end to end."""

__version__ = "0.1.0"
