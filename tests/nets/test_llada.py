"""LLaDA's transformer against Llama of transformers, which it is but for the mask; padding, recomputation, refusals."""

import pytest
import torch

from infimum.errors import UserError
from infimum.nets import Llada

NAMES = {
    "wte.weight": "model.embed_tokens.weight", "ln_f.weight": "model.norm.weight", "ff_out.weight": "lm_head.weight",
    "attn_norm.weight": "input_layernorm.weight", "ff_norm.weight": "post_attention_layernorm.weight",
    "q_proj.weight": "self_attn.q_proj.weight", "k_proj.weight": "self_attn.k_proj.weight",
    "v_proj.weight": "self_attn.v_proj.weight", "attn_out.weight": "self_attn.o_proj.weight",
    "ff_proj.weight": "mlp.gate_proj.weight", "up_proj.weight": "mlp.up_proj.weight",
}  # fmt: skip


def theirs(ours):
    """A name in Llama."""
    if not ours.startswith("blocks."):
        return NAMES[ours]
    _, i, rest = ours.split(".", 2)
    return f"model.layers.{i}." + {"ff_out.weight": "mlp.down_proj.weight"}.get(rest, NAMES.get(rest, ""))


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_it_is_llama(causal, kv_heads):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = Llada(23, width=32, blocks=3, heads=4, kv_heads=kv_heads, hidden=40, theta=500_000.0, causal=causal).eval()
    config = transformers.LlamaConfig(
        vocab_size=23, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=kv_heads or 4, rms_norm_eps=1e-5, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}, tie_word_embeddings=False,
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
        llama.load_state_dict({theirs(name): p for name, p in net.state_dict().items()}, strict=True)
        z = torch.randint(0, 23, (2, 9))
        present = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9]).bool()
        allowed = present[:, None, None] & (torch.ones(9, 9).bool().tril() if causal else torch.ones(9, 9).bool())
        bias = torch.zeros(2, 1, 9, 9).masked_fill(~(allowed | torch.eye(9).bool()), float("-inf"))
        want = llama(z, attention_mask=bias, position_ids=torch.arange(9)[None]).logits
        torch.testing.assert_close(net(z, present)[present], want[present], rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing():
    """0 or 7 tokens of padding on the left, any on the right."""
    torch.manual_seed(0)
    net = Llada(11, width=16, blocks=2, heads=2).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
        z = torch.randint(0, 11, (3, 5))
        alone = net(z)
        padded = torch.cat((torch.randint(0, 11, (3, 7)), z, torch.randint(0, 11, (3, 2))), 1)
        present = torch.tensor([0] * 7 + [1] * 5 + [0] * 2).bool().expand(3, -1)
        torch.testing.assert_close(net(padded, present)[:, 7:12], alone, rtol=1e-5, atol=1e-5)
        assert bool(net(padded, present).isfinite().all())
        moved = z.clone()
        moved[0, 4] = (z[0, 4] + 1) % 11
        assert float((net(moved) - alone)[0, 0].abs().max()) > 1e-4  # the first token sees the last one
        net.causal = True
        assert torch.equal(net(moved)[0, :4], net(z)[0, :4])


def test_recomputed_blocks_have_the_same_gradients():
    torch.manual_seed(0)
    net = Llada(11, width=16, blocks=2, heads=2)
    z = torch.randint(0, 11, (3, 5))
    found = []
    for net.remember in (True, False):
        net.zero_grad()
        net(z).square().sum().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "options", [{"width": 6, "heads": 4}, {"heads": 4, "kv_heads": 3}, {"blocks": 0}, {"hidden": 0}]
)
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(UserError, match="a transformer needs"):
        Llada(11, **{"width": 16} | options)
