"""Chat templates and tokenizer files for tests of conversations.

The templates write what the published ones write for conversations without tools; their text is
the tests' own. Sources: tokenizer_config.json of mistralai's repositories on the hub, and
chat_templates.md of mistralai/cookbook.
"""

import json
from pathlib import Path

from mistral_eval.model.export import save_tokenizer

_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
)


def _mistral(before: str, behind: str, answer: str, where: str) -> str:
    """A template of Mistral's: marks of a question, an answer, and which message has the system."""
    return (
        f"{_SYSTEM}{{{{ bos_token }}}}{{% for message in rest %}}{_ALTERNATE}"
        "{% if message['role'] == 'user' %}"
        f"{{% if loop.{where} and system is defined %}}"
        f"{{{{ '{before}' + system + '\\n\\n' + message['content'] + '{behind}' }}}}"
        f"{{% else %}}{{{{ '{before}' + message['content'] + '{behind}' }}}}{{% endif %}}"
        f"{{% else %}}{{{{ {answer} + eos_token }}}}{{% endif %}}{{% endfor %}}"
    )


# v0.1 and v0.2 as first published: no system message, no space before an answer.
FIRST = (
    "{{ bos_token }}{% for message in messages %}" + _ALTERNATE + "{% if message['role'] == 'user' "
    "%}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ raise_exception('no such role') }}{% endif %}"
    "{% endfor %}"
)
UPDATED = _mistral(" [INST] ", " [/INST]", "' ' + message['content']", "first")
V3 = _mistral("[INST] ", "[/INST]", "' ' + message['content']|trim", "last")
NEMO = _mistral("[INST]", "[/INST]", "message['content']", "last")
SMALL = (
    _SYSTEM.replace(
        "{% else %}", "{% else %}{% set system = 'Today is ' + strftime_now('%Y-%m-%d') + '.' %}"
    )
    + "{{ bos_token + '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}{% for message in rest %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = CHATML.replace("<|im_start|>", "[INST] <<SYS>>")


def save_shape(model_file: Path, folder: Path, shape: str) -> Path:
    """Write a tokenizer.json of one of the two published shapes: legacy or metaspace.

    Legacy prepends a space mark to every text between control tokens, Metaspace to the first text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(model_file, folder)
    (folder / "tokenizer.model").unlink()
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    if shape == "metaspace":
        content["normalizer"] = None
        content["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False
        }  # fmt: skip
    file.write_text(json.dumps(content))
    return folder


def add_template(folder: Path, template: str) -> Path:
    """Write a chat template into a folder's tokenizer_config.json."""
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**fields, "chat_template": template}))
    return folder


def add_config(folder: Path, family: str = "mistral") -> Path:
    """Write a config.json that names a family of models."""
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return folder
