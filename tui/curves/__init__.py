"""The curves of one trial: which charts its page has, smoothing, zoom, and the logarithmic axis.

Pure functions over points that were read; called by the pages with curves and by `tui.chart`. They
import `tui.paint`, `tui.chart` and plain data of `workbench.service`; only `page`, the keys of such
a page, imports the frame of views.
"""
