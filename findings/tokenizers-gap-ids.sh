#!/usr/bin/env bash
# tokenizers 0.23.3: the id that a tokenizer.json states for an added token is ignored where ids before it are not used.
#
# `added_tokens` of a tokenizer.json has an `id` for each token. Where the ids leave a gap behind the vocabulary, as after a fine-tune that
# reserved rows, `Tokenizer.from_file` numbers the added tokens on without one: the token's text and its row in the embeddings no
# longer belong together, and nothing warns. A reader of the JSON file and a user of the library then disagree about the id.
# Here: ids of special tokens are asked of the library, not read from the file (model/tokenizers/tokenizer_json.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "tokenizers==0.23.3"
cat >"$folder/show.py" <<'PYTHON'
import json
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models

tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
tokenizer.add_special_tokens([AddedToken("<x>", special=True)])
content = json.loads(tokenizer.to_str())
content["added_tokens"][0]["id"] = 9  # a gap: 2 to 8 are not used
file = Path(tempfile.mkdtemp()) / "tokenizer.json"
file.write_text(json.dumps(content))
loaded = Tokenizer.from_file(str(file))
print(f"the file says 9, the library {loaded.token_to_id('<x>')}")
PYTHON
observed=$("$folder/venv/bin/python" "$folder/show.py")
echo "tokenizers 0.23.3: $observed"
expected="the file says 9, the library 2"
[ "$observed" = "$expected" ] || { echo "The behaviour has changed; see the head of $0." >&2; exit 1; }
