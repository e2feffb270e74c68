"""Models as data: manifests, programs, images, archives and the folder that stores them.

Nothing here imports torch but ``pack.py`` and ``examples/``, which no server imports.
"""
