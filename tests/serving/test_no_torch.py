"""The server starts, loads and answers without PyTorch and without the demo's packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, json, sys
from pathlib import Path
import serving.app, serving.cli
from serving.service import Target
from serving.settings import Settings

app = serving.app.create_app(Settings(models=Path(sys.argv[1])))
service = app.state.service
service.repository.load()
bundle = service.repository.get("mosi").bundle
item = json.loads((bundle.path / "example.json").read_text())
answer = asyncio.run(service.predict(Target("sentiment"), item))
app.openapi()
service.close()
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"answer": answer.to_json(), "loaded": sorted(loaded)}))
"""

FORBIDDEN = {"torch", "gradio", "export", "demo", "onnx", "onnxscript", "transformers", "matplotlib"}


def test_server_has_no_torch(models: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, models], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert isinstance(said["answer"]["score"], float)
    assert "onnxruntime" in said["loaded"]
    assert FORBIDDEN & set(said["loaded"]) == set()
