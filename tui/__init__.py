"""The screen: a Textual app over workbench.service. It knows plain data and drops requests."""
