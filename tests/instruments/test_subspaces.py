"""`alignment`: angles against scipy, the null against closed forms, and what makes it lie."""

import numpy as np
import pytest
import tiny
import torch
from changed import orthonormal
from matplotlib.text import Text
from scipy import stats
from scipy.linalg import subspace_angles

import sublim_mech as sm
from sublim_mech.results.alignments import overlap, principal_angles, random_overlaps

QUIET = {"progress": False}


@pytest.mark.parametrize(("j", "k"), [(4, 4), (3, 6), (6, 3), (1, 1), (12, 12), (30, 20)])
def test_angles_are_scipys(j, k):
    a, b = orthonormal(40, j, 1).numpy(), orthonormal(40, k, 2).numpy()
    np.testing.assert_allclose(principal_angles(a, b), subspace_angles(a, b)[::-1], atol=1e-12)


def test_tiny_angles_are_not_lost_to_rounding():
    """A cosine does not know an angle of 1e-9 from 0; a sine does."""
    a = np.eye(10)[:, :2]
    b = a.copy()
    b[:, 1] = np.cos(1e-9) * a[:, 1] + np.sin(1e-9) * np.eye(10)[:, 5]
    angles = principal_angles(a, b)
    np.testing.assert_allclose(angles, subspace_angles(a, b)[::-1], atol=1e-15)
    assert angles[1] == pytest.approx(1e-9, rel=1e-6)


def test_the_overlap_of_random_subspaces_is_that_of_the_theory():
    """Mean: the larger dimension over that of the space; of two lines a Beta distribution."""
    for n, j, k in [(20, 3, 5), (20, 5, 3), (50, 1, 1), (12, 12, 4)]:
        values = random_overlaps(n, j, k, 2000, 0)
        error = values.std() / np.sqrt(len(values)) + 1e-12
        assert abs(values.mean() - max(j, k) / n) < 4 * error
    lines = random_overlaps(30, 1, 1, 2000, 1)
    assert stats.kstest(lines, stats.beta(1 / 2, 29 / 2).cdf).pvalue > 0.01
    # either of the two may be the one that is held fixed
    a, b = orthonormal(20, 3, 7).numpy(), np.eye(20)[:, :5]
    assert overlap(principal_angles(a, b)) == pytest.approx((a[:5] ** 2).sum() / 3)
    assert random_overlaps(20, 3, 5, 9, 4) is random_overlaps(20, 3, 5, 9, 4)


def adapter(base, factors):
    """A LoRA on one module with these factors, by their columns and rows."""
    b, a = factors
    student = tiny.lora(base, r=b.shape[1], lora_alpha=b.shape[1], target_modules=["down_proj"])
    with torch.no_grad():
        for name, p in student.named_parameters():
            if "lora_A" in name:
                p.copy_(a if ".1." in name else a.flip(1))
            if "lora_B" in name:
                p.copy_(b if ".1." in name else b.flip(0))
    return student


def make(tokenizer, ours, theirs, **options):
    base = sm.load_base(tiny.model("llama"), tokenizer=tokenizer)
    plain = tiny.model("llama")
    control = sm.models.load_student(base, adapter(plain, theirs), name="cat", allow_unrelated=True)
    return sm.load_pair(
        base, adapter(plain, ours), controls=[control], allow_unrelated=True, **options
    )


def align(pair, **options):
    return sm.instruments.alignment(pair, "student", "control: cat", **QUIET, **options)


def test_planted_subspaces_are_told_apart(smol_tokenizer):
    """The same outputs, inputs at right angles: all overlap on the left and none on the right."""
    u, v = orthonormal(32, 2, 1).float(), orthonormal(48, 4, 2).float()
    turned = u @ orthonormal(2, 2, 3).float()
    pair = make(smol_tokenizer, (u, v[:, :2].T), (3 * turned, v[:, 2:].T))
    found = align(pair, draws=99)
    table = found.table()
    np.testing.assert_allclose(table["left"], 1, atol=1e-6)
    np.testing.assert_allclose(table["right"], 0, atol=1e-6)
    np.testing.assert_allclose(table["left p"], 1 / 100)
    np.testing.assert_allclose(table["right p"], 1)
    np.testing.assert_allclose(table["left by chance"], 2 / 32)
    assert (table["left 95 %"] < 0.5).all()
    assert list(table["first"]) == [2, 2, 2]
    np.testing.assert_allclose(table["right smallest angle"], 90, atol=1e-3)
    assert "above 95 % of random subspaces in 3 of 3" in repr(found)
    assert "began with the same matrices A" in repr(found)


def test_angles_are_those_of_the_dense_changes(smol_tokenizer):
    ours = orthonormal(32, 4, 1).float(), torch.randn(4, 48, generator=torch.manual_seed(0))
    theirs = orthonormal(32, 4, 2).float(), torch.randn(4, 48, generator=torch.manual_seed(1))
    pair = make(smol_tokenizer, ours, theirs)
    one = align(pair, k=3).modules[1]
    spaces = [np.linalg.svd((b @ a).double().numpy()) for b, a in (ours, theirs)]
    left = subspace_angles(*(u[:, :3] for u, _, _ in spaces))[::-1]
    right = subspace_angles(*(v[:3].T for _, _, v in spaces))[::-1]
    np.testing.assert_allclose(one.left, left, atol=1e-5)
    np.testing.assert_allclose(one.right, right, atol=1e-5)
    frame = align(pair, k=3).to_dataframe()
    assert len(frame) == 3 * 2 * 3
    assert frame["cosine"].iloc[0] == pytest.approx(np.cos(frame["angle"].iloc[0]))


def test_directions_beyond_the_rank_are_not_taken_for_directions(smol_tokenizer):
    """Singular vectors of zeros are arbitrary: a change of rank 1 has one direction."""
    u, v = orthonormal(32, 1, 1).float(), orthonormal(48, 1, 2).float()
    doubled = torch.cat([u, u], 1), torch.cat([v, v], 1).T
    other = orthonormal(32, 3, 4).float(), orthonormal(48, 3, 5).float().T
    found = align(make(smol_tokenizer, doubled, other))
    assert {one.dims for one in found.modules} == {(1, 3)}
    one, other = found.students
    assert f"directions of each module: 1 of {one}, 3 of {other}" in repr(found)
    assert any(
        "directions of each module: 1 of" in " ".join(text.get_text().split())
        for text in found.plot().figure.findobj(Text)
    )


def test_what_one_alone_changes_is_named(smol_tokenizer, tmp_path):
    base = sm.load_base(tiny.model("llama"), tokenizer=smol_tokenizer)
    plain = tiny.model("llama")
    control = sm.models.load_student(base, tiny.lora(plain, seed=2, layers=[1, 2]), name="cat")
    pair = sm.load_pair(base, tiny.lora(plain, layers=[0, 1]), controls=[control])
    found = align(pair, draws=20)
    assert {one.layer for one in found.modules} == {1}
    assert len(found.alone) == 14
    # by its own name, too
    by_name = sm.instruments.alignment(pair, "student", "cat", draws=20, progress=False)
    assert by_name.students == ("student", "control: cat")
    assert "changed as a matrix by one of them only: blocks.0.attn.q" in repr(found)
    axes = found.plot("right", path=tmp_path / "map.png")
    assert "read" in axes.get_title()
    for options, said in (
        ({"first": "student", "second": "student"}, "name two students"),
        ({"first": "student", "second": "dog"}, "'dog' is no student"),
        ({"first": "cat", "second": "control: cat"}, "name two students"),
        ({"first": "student", "second": "control: cat", "k": 0}, "k=0"),
        ({"first": "student", "second": "control: cat", "draws": 0}, "draws=0"),
    ):
        with pytest.raises(ValueError, match=said):
            sm.instruments.alignment(pair, **QUIET, **options)
    other = sm.models.load_student(base, tiny.lora(plain, seed=2, layers=[2]), name="cat")
    apart = sm.load_pair(base, tiny.lora(plain, layers=[0]), controls=[other])
    with pytest.raises(ValueError, match="no module is changed as a matrix by both"):
        align(apart)


def test_a_student_that_is_not_there_is_named_as_it_was_given(smol_tokenizer):
    base = tiny.model("llama")
    pair = sm.load_pair(base, tiny.lora(base), tokenizer=smol_tokenizer, allow_unrelated=True)
    for argument, names in (("first", ("owl", "student")), ("second", ("student", "owl"))):
        with pytest.raises(ValueError, match=f"^{argument}='owl'"):
            sm.instruments.alignment(pair, *names)


def test_the_picture_has_its_own_sides_notes_and_its_chance(smol_tokenizer):
    """That adapters may read alike whatever they learned says nothing of what they write."""
    pair = make(
        smol_tokenizer,
        *((orthonormal(32, 3, s).float(), orthonormal(48, 3, s + 9).float().T) for s in (1, 4)),
    )
    found = align(pair, draws=20)
    assert any("what they read overlaps" in note for note in found.notes)

    def said(side):
        figure = found.plot(side).figure
        return " ".join(" ".join(text.get_text().split()) for text in figure.findobj(Text))

    for side in ("left", "right"):
        chance = found.table()[f"{side} by chance"].mean()
        assert f"by chance {chance:.3f}; above 95 % of random subspaces" in said(side)
    assert "read overlaps" not in said("left")
    assert "what they read overlaps" in said("right")
