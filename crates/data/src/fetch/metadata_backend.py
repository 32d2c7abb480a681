"""Answers pip's question for a source archive's name and version without running the archive's code.

pip wants metadata even of what it only downloads, and for a source archive it would run its set-up
script. Standing in front of setuptools, this module answers from two environment variables.
"""

import os


class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        name, version = os.environ["ETUDE_PACKAGE"], os.environ["ETUDE_VERSION"]
        folder = f"{name.replace('-', '_')}-{version}.dist-info"
        os.mkdir(os.path.join(metadata_directory, folder))
        with open(os.path.join(metadata_directory, folder, "METADATA"), "w", encoding="utf-8") as file:
            file.write(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return folder


__legacy__ = _Backend()
get_requires_for_build_wheel = __legacy__.get_requires_for_build_wheel
prepare_metadata_for_build_wheel = __legacy__.prepare_metadata_for_build_wheel
