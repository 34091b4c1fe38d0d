"""The Dockerfile editor: text in, text out, nothing read or written.

``parse`` gives the instructions and stages of a Dockerfile, ``find_block`` the lines that are ours to change,
``own_installs`` the ``pip install`` lines that are not, and ``edit`` the text with requirements added to or
taken from that block::

    # Custom additional packages
    RUN pip install --no-cache-dir \\
        "numpy==2.1.0" \\
        "rich==13.9.4"

Where the block goes. A file without one gets it at the end of the final stage (or of ``target``): packages
change more often than anything above them, so only this layer is built again. CMD and ENTRYPOINT that end the
stage stay last, with the comment above them, as one expects to find them. A file that has the heading
``# Custom additional packages`` keeps it where it is, with or without packages below.

What keeps DS01's ``image-update`` able to read and extend it: the RUN is the very next line after the heading
(``USER root``, where it is needed, stands above the heading), packages are one a line, and a blank line
follows, because ``image-update`` appends at the next blank line, RUN or comment
(https://github.com/hertie-data-science-lab/ds01-infra, ``scripts/user/atomic/image-update``).

What is changed in a block that is there. Words are replaced, appended and taken out one by one; the layout,
the comments, the options and the command that somebody wrote stay. A word that the shell would misread
(``pandas>=2.0`` without quotes writes a file named ``=2.0``) is quoted on the way. An emptied block goes with
its blank line and its USER lines. Its heading goes too when the block stands where this editor puts one;
elsewhere the heading was there first (DS01 writes it into every new Dockerfile) and stays.

Only blocks of one plain ``pip install`` command are ours. One with ``&&``, a pipe, a redirection, a shell
comment, a heredoc or in JSON form counts as the user's own line, and so does every install that the stage
inherits from an earlier stage. ONBUILD lines run in another build and count for nothing. A package that an
own line pins is a conflict and is not written; one that an own line merely names, or gives a range that the
new version lies in, is written, as the block runs later.

``edit_requirements`` does the same for a ``requirements.txt``, where a project prefers that file.

The grammar is BuildKit's, by ``e2b-dockerfile-utils`` (Apache-2.0, pure Python, a port of BuildKit's parser).
"""

from .block import Block, find_block
from .editing import Conflict, Edit, edit
from .installs import OwnInstall, OwnRequirement, own_installs
from .pip_command import name_of
from .requirement import read_requirements
from .requirements_file import edit_requirements
from .syntax import Dockerfile, Instruction, Stage, parse

__all__ = [
    "Block",
    "Conflict",
    "Dockerfile",
    "Edit",
    "Instruction",
    "OwnInstall",
    "OwnRequirement",
    "Stage",
    "edit",
    "edit_requirements",
    "find_block",
    "name_of",
    "own_installs",
    "parse",
    "read_requirements",
]
