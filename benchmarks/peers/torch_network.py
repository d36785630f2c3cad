"""A network of `stableops.nn` as one of `torch.nn`, with the same weights."""

from __future__ import annotations

import torch

from stableops import nn


class Residual(torch.nn.Module):
    def __init__(self, module: nn.Residual) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(*[to_torch(getattr(module, name)) for name in module.body])
        self.downsample = None if module.downsample is None else to_torch(module.downsample)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu_(self.body(x).add_(shortcut))


class Concat(torch.nn.ModuleList):
    def forward(self, x):
        return torch.cat([branch(x) for branch in self], 1)


class DenseBlock(torch.nn.ModuleList):
    def forward(self, x):
        features = [x]
        for layer in self:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def to_torch(module: nn.Module) -> torch.nn.Module:
    """Convert the modules that the networks of `bench_networks` are made of."""
    if isinstance(module, nn.Residual):
        return Residual(module)
    if isinstance(module, (nn.Concat, nn.DenseBlock)):
        kind = Concat if isinstance(module, nn.Concat) else DenseBlock
        return kind([to_torch(child) for child in module])
    if isinstance(module, nn.Sequential):
        return torch.nn.Sequential(*[to_torch(child) for child in module])
    made = _layer(module)
    own = module.state_dict()
    made.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in own.items()})
    return made


def _layer(module: nn.Module) -> torch.nn.Module:
    if isinstance(module, nn.Conv2d):
        channels = module.weight.shape[1] * module.settings["groups"]
        return torch.nn.Conv2d(
            channels,
            len(module.weight),
            module.kernel_size,
            bias=module.bias is not None,
            **module.settings,
        )
    if isinstance(module, nn.BatchNorm2d):
        return torch.nn.BatchNorm2d(len(module.running_mean), module.eps)
    if isinstance(module, nn.Linear):
        return torch.nn.Linear(*module.weight.shape[::-1])
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        return getattr(torch.nn, type(module).__name__)(**module.settings)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return torch.nn.AdaptiveAvgPool2d(module.output_size)
    if isinstance(module, nn.ReLU):
        return torch.nn.ReLU(inplace=True)
    if isinstance(module, nn.Dropout):
        return torch.nn.Dropout(module.p)
    return {nn.Flatten: torch.nn.Flatten}[type(module)]()
