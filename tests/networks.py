"""Small networks of the shapes that users bring, and weights for them that depend on a seed alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters from a standard Gaussian."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)))
    return model


def block(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = block(3, 4), block(4, 8)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        bottom = self.bottom(F.max_pool2d(skip, 2))
        return self.out(torch.cat((self.up(bottom), skip), 1)) + F.interpolate(bottom[:, :2], scale_factor=2, mode="bilinear")


class Dense(nn.Module):
    """Layers that see all that came before, as in DenseNet: norm and activation before the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 2 * i) for i in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(3 + 2 * i, 2, 3, padding=1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = torch.cat((x, convolution(torch.relu(norm(x)))), 1)
        return x


class OneShot(nn.Module):
    """All outputs of a chain concatenated once, as in VoVNet."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.ModuleList((block(3, 4), block(4, 4), block(4, 4)))
        self.merge = block(15, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.chain:
            seen.append(layer(seen[-1]))
        return self.merge(torch.cat(seen, 1))


class InstanceBatch(nn.Module):
    """Half of the channels normalized by instance, half by batch, as in IBN-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.instance, self.batch = nn.InstanceNorm2d(4, affine=True), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.convolution(x).chunk(2, 1)
        return torch.relu(torch.cat((self.instance(first), self.batch(second)), 1))


class Inverted(nn.Module):
    """Widen, depthwise, narrow, with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(4, 12, 1), block(12, 12, 3, groups=12), nn.Conv2d(12, 4, 1), nn.BatchNorm2d(4))
        self.stem = block(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.body(x)


class Regression3d(nn.Module):
    """A 3-D ConvNeXt-like block: depthwise 7x7x7, layer norm over channels, pointwise linear layers, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 4, 2, stride=2)
        self.depthwise = nn.Conv3d(4, 4, 7, padding=3, groups=4)
        self.norm = nn.LayerNorm(4)
        self.wide, self.narrow = nn.Linear(4, 16), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 4, 1))
        y = self.narrow(F.gelu(self.wide(y))) * self.scale
        return self.head((x + y.permute(0, 4, 1, 2, 3)).mean((2, 3, 4)))


class Tagger(nn.Module):
    """Embedding, a bidirectional LSTM and an encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 4, bidirectional=True, batch_first=True)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), 2)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        hidden, _ = self.lstm(self.embedding(tokens))
        return {"logits": self.out(self.encoder(hidden))}


class Custom(nn.Module):
    """Weights held by a custom module and used through functions, one of them twice, one tied to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(5, 7))
        self.kernel = nn.Parameter(torch.ones(6, 1, 3))
        self.tied = nn.Embedding(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x @ self.first)
        y = torch.tanh(y @ self.first.t() @ self.first)
        y = F.conv1d(y.unsqueeze(1), self.kernel, padding=1, groups=1).mean(1)
        return F.linear(y, self.tied.weight.t()) + self.tied(torch.zeros(1, dtype=torch.long))


class Hyper(nn.Module):
    """A network that makes the weights of another at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.maker(x.mean(0)).reshape(3, 4))


def plain(channels: tuple[int, ...], kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *channels), channels, strict=False):
        layers += [*block(inputs, outputs, kernel), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 5))


def vanilla() -> nn.Sequential:
    """Few layers, no shortcuts: convolutions that take their own size as stride, then a wide classifier, as in VanillaNet."""
    stages = [nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o), nn.LeakyReLU(0.1), nn.MaxPool2d(2)) for i, o in ((8, 16), (16, 24))]
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), *stages, nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 5, 1), nn.Flatten()
    )


class ParallelAttention(nn.Module):
    """Attention and feed-forward side by side from one normalized input and one fused projection, as in PaLM and GPT-J."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.norm = nn.LayerNorm(width)
        self.fused = nn.Linear(width, 3 * width + 2 * width)
        self.attended, self.fed = nn.Linear(width, width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, wide = self.fused(self.norm(x)).split([self.width] * 3 + [2 * self.width], -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return x + self.attended(attended) + self.fed(F.gelu(wide))


class AttentionExperts(nn.Module):
    """A router sends each token's query to one of several experts; keys and values are shared, as in a mixture of attention heads."""

    def __init__(self, width: int = 8, experts: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.queries = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.outputs = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.keys, self.values = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.router(x).softmax(-1).max(-1)
        q = torch.zeros_like(x)
        for index, expert in enumerate(self.queries):
            where = chosen == index
            if bool(where.any()):
                q[where] = expert(x[where])
        attended = F.scaled_dot_product_attention(q, self.keys(x), self.values(x))
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.outputs):
            where = chosen == index
            if bool(where.any()):
                y[where] = expert(attended[where])
        return x + y * share.unsqueeze(-1)


class DynamicConvolution(nn.Module):
    """Kernels mixed for each sample from a bank by attention, applied as one grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = nn.Parameter(torch.ones(3, 6, 2, 3, 3))
        self.attention = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        share = self.attention(x.mean((2, 3))).softmax(-1)
        kernels = (share[:, :, None, None, None, None] * self.bank).sum(1)
        y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=1, groups=len(x))
        return y.unflatten(1, (len(x), -1))[0]
