"""The report of an experiment: one HTML file that a browser opens without a network.

`facts` gathers an experiment's rows, curves and samples from the service, `plots` draws them as
SVG, `page` makes the document, and `saving` writes the file. Called by `workbench report` and by
the public API. Imports the service, `judging`'s words, `formatting`, `text` and `machine.files`;
`page` and `plots` are pure.
"""
