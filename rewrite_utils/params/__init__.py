"""One frozen model of everything a run may vary; every stage reads the same YAML (params/*.yaml).

A misspelt name is an error that names the nearest real one. ``content()`` is what a stage hashes:
all fields that determine a result, and none of those that only decide how fast it is made.
"""

from rewrite_utils.params.asking import LLM, Explain, Score, Simulate
from rewrite_utils.params.measuring import Rewrite, Studies
from rewrite_utils.params.place import Corpus, Site, Subject
from rewrite_utils.params.reading import find, load, names, parse
from rewrite_utils.params.run import Params
from rewrite_utils.params.section import ROOT, SPLITS, ParameterError, Section, placed
