"""The terminal screen: a Textual app with six views over `workbench.service`.

`app` holds the application, `poller` the one thread that reads the store, `messages` what both say
to each other. `keys` holds the table of keys, `acts` sends requests and undoes them, `new_run` is
the page on which runs begin, `variants` are a screen that only reads and one in ASCII. `screens`
has a module for each view and panel, `tables` turns snapshots into rows, `widgets` draws rows,
lines and curves, `wire` sends the cells that differ. `workbench.cli.app` calls `app.run_app` when
the command has no arguments. The package imports `workbench.service` and plain data, never the
engine, the store's writer, Ray or torch; it changes nothing itself and only drops requests.
"""
