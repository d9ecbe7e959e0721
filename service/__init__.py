"""The service: HTTP, command line, settings. The only package that composes `models` and `index`."""
