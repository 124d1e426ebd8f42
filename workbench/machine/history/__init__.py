"""The readings of the last day of each card, a line for each minute, in a file of the home.

`writer` is used by the card sampler, so that history goes on while the engine's loop is down;
`minutes` is what front ends read. A lost file costs a chart and nothing else. May import
`workbench.machine.files` and nothing else of the project.
"""
