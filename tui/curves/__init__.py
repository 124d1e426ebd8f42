"""The curves of one trial: which charts its page has, smoothing, zoom, and the logarithmic axis.

Pure functions over points that were read; called by the trial's page and by `tui.chart`. Imports
`tui.paint`, `tui.chart` and plain data of `workbench.service`.
"""
