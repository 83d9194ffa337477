"""The terms of a source travel from the corpus to the run, to what is made of it, and to its export."""

import json
from dataclasses import replace

import pytest

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_json
from maquette.corpus.document import Document
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.terms import forbidden, joined_licences, said_terms, terms_of_manifest
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.training.run import CORPUS, RunDirectory
from maquette.training.run_setup import create
from maquette.training.run_terms import TERMS, check_export, terms_of
from maquette.workshop.train import train
from tests.conftest import command, refused
