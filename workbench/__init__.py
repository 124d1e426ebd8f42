"""The workbench: which fine-tune of this model on this data is best?"""

__version__ = "0.1.0"
