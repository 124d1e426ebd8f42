"""Steps that outlive their trial: captured graphs and their buffers, for the next trial.

keeper.py holds the step of the last trial on a base and decides by a key whether the next trial
takes it over; patches.py takes a step's changes off a model and puts them on again; layers.py puts
the layers that the step knows in the place of the new ones. The rules are in docs/step.md, "Graphs
that outlive trials".
"""
