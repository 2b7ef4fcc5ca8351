#!/usr/bin/env bash
# anomalib 2.7.0 gives a detector other layers than those it asked for, if they are not named from fine to coarse.
#
# TimmFeatureExtractor (under PatchCore, PaDiM, STFPM and others) turns names into timm's indices in the order given.
# timm returns maps in the order of the network all the same, and the extractor pairs names and maps by their place.
# With layers=("layer3", "layer2") the map called layer3 is layer2's, and the other way round; out_dims keeps the order
# asked for and disagrees with the maps. Nothing is said: there are as many names as maps.
# A natural guess goes wrong by it: PatchCore and PaDiM bring all maps to the grid of the first layer named, so naming
# the coarsest first should give a small grid and a small memory bank. It gives the finest grid and a large one.
# Name layers from fine to coarse, and check a map by its channels, not by its name.
#
# Exit status 0: as described. Other: anomalib behaves in another way now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet anomalib==2.7.0 timm==1.0.31 torch==2.14.1 torchvision==0.29.1
"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

import torch
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

assert (version("anomalib"), version("timm")) == ("2.7.0", "1.0.31"), "other versions than those described"
torch.manual_seed(0)
image = torch.rand(1, 3, 256, 256)
channels = {"layer2": 128, "layer3": 256}  # of a ResNet-18, strides 8 and 16
for names in (("layer2", "layer3"), ("layer3", "layer2")):
    extractor = TimmFeatureExtractor("resnet18", names, pre_trained=False)
    maps = {name: value.shape[1] for name, value in extractor(image).items()}
    print(names, "-> channels by name", maps, "out_dims", list(extractor.out_dims))
    assert list(extractor.out_dims) == [channels[name] for name in names]
    assert (maps == channels) == (names == ("layer2", "layer3")), "maps have their own names now"
    assert sorted(maps.values()) == [128, 256]

model = PatchcoreModel(("layer3", "layer2"), "resnet18", pre_trained=False).train()
positions = len(model(image))
print("positions of PatchCore with the layer of 16 x 16 named first:", positions)
assert positions == 32 * 32, "the grid is that of the first layer named now"
END
echo "as described"
