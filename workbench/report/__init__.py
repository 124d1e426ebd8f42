"""The report of an experiment: one HTML file that a browser opens without a network.

`facts` gathers an experiment's rows, curves and samples from the service, `plots` draws them as
SVG, and `page` writes the file. Called by `workbench report` and by the public API. Imports the
service, `formatting` and `text`; everything here but `facts` is pure.
"""
