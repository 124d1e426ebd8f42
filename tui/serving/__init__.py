"""The screen in a browser: `workbench --serve`, with the extra `serve` (textual-serve).

`server` is the HTTP server on loopback with a token in front of every path; it starts `child`, a
process with the app, for each browser tab. Called by `workbench.cli.app`, which imports `server`
only when it was asked for; no other part of the screen may import it or aiohttp.
"""
