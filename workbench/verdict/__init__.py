"""The verdict: which adapter is best, and how sure that is.

Pure functions from per-row results to intervals, paired differences, ties, finals, power, and the
sentence that says it. Called by the service for the board, and by the scheduler when an experiment
ends. Imports numpy and scipy.special, and nothing else of the workbench but
`workbench.text`: import it only where it is used, because front ends start without numpy.
"""
