"""WSGI entry point: ``app`` for a server of your own, ``python wsgi.py`` to serve it as `roost serve` does.

Importing this module starts no thread and loads no model.
"""

from webapp.settings import load_settings
from webapp.web.app import create_app

app = create_app(load_settings())

if __name__ == "__main__":
    from webapp.web.serve import serve

    serve(app, app.extensions["settings"], on_stop=app.extensions["close"])
