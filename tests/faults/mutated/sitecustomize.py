"""Found by every Python process that has this folder on its path: puts the mutation of the environment in force."""

import os

from faults.mutations import apply

if "FAULTS_MUTATION" in os.environ:
    apply(os.environ["FAULTS_MUTATION"])
