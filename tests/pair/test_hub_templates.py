"""Chat templates are programs by strangers: transformers renders them in a sandbox, and they do not get out of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import jinja2
import jinja2.sandbox
import pytest
from transformers import AutoTokenizer

from pairtune.pair import hub
from pairtune.pair.files import read_json, write_json

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{% set x = namespace() %}{{ x.__init__.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    "{{ messages.append({'role': 'system', 'content': 'x'}) }}",
    "{{ raise_exception.__globals__['jinja2'].os.system('touch CANARY') }}",
    "{{ strftime_now.__globals__ }}",
    "{% set f = '{0.__class__.__init__.__globals__}' %}{{ f.format(strftime_now) }}",
]


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_stays_in_the_sandbox(tiny_llama, tmp_path, template, where):
    folder, canary = Path(shutil.copytree(tiny_llama, tmp_path / "m")), tmp_path / "canary"
    template = template.replace("CANARY", str(canary))
    if where.endswith(".json"):
        write_json(folder / where, {**read_json(folder / where), "chat_template": template})
    else:
        (folder / where).write_text(template)
    tokenizer = hub.load_tokenizer(folder)
    assert tokenizer.chat_template == template
    messages = [{"role": "user", "content": "hi"}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except (jinja2.exceptions.SecurityError, jinja2.exceptions.UndefinedError):
        text = ""
    assert "<class" not in text
    assert "builtins" not in text
    assert not canary.exists()
    assert messages == [{"role": "user", "content": "hi"}]


def test_templates_outside_of_the_sandbox_would_escape(tmp_path):
    """The control: jinja without a sandbox runs one of the templates above."""
    jinja2.Environment().from_string(ESCAPES[1].replace("CANARY", str(tmp_path / "canary"))).render(messages=[])
    assert (tmp_path / "canary").exists()


def test_transformers_renders_templates_in_the_immutable_sandbox(tiny_llama, monkeypatch):
    seen = []
    compile_ = jinja2.sandbox.ImmutableSandboxedEnvironment.from_string
    monkeypatch.setattr(
        jinja2.sandbox.ImmutableSandboxedEnvironment,
        "from_string",
        lambda self, *args, **keywords: seen.append(type(self)) or compile_(self, *args, **keywords),
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    unique = "{{ messages[0].content }} of one test only"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], chat_template=unique, tokenize=False)
    assert len(seen) == 1
    assert issubclass(seen[0], jinja2.sandbox.ImmutableSandboxedEnvironment)
