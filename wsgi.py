"""WSGI entry point: ``app`` for a server of your own, ``python wsgi.py`` to serve it as `roost serve` does.

Importing this module starts no thread and loads no model.
"""

import gc

gc.disable()  # importing makes no garbage, and looking for it takes a tenth of the time

from webapp.settings import load_settings  # noqa: E402
from webapp.web.app import create_app  # noqa: E402

app = create_app(load_settings())
gc.freeze()
gc.enable()

if __name__ == "__main__":
    from webapp.web.serve import serve

    serve(app, app.extensions["settings"], on_stop=app.extensions["close"])
