"""The concept model: its bottleneck, what it learns from partly annotated images, and what it tells the reward."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    EfficientNetConfig,
    EfficientNetModel,
    MobileNetV2Config,
    MobileNetV2Model,
    MobileViTConfig,
    MobileViTModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from dermo_ray.completion import Completion, render
from dermo_ray.config import RewardConfig
from dermo_ray.config.concepts import EncoderSettings
from dermo_ray.data.samples import StoredSample
from dermo_ray.errors import UserError
from dermo_ray.models.concepts import ConceptModel, ConceptScorer, ImageConcepts
from dermo_ray.models.concepts.agreement import best_agreement, expected_agreement
from dermo_ray.models.concepts.calibration import calibrate, calibrations, ece, mean_losses
from dermo_ray.models.concepts.data import NO_LABEL, ConceptSamples, Targets
from dermo_ray.models.concepts.encoders import new_model, new_processor
from dermo_ray.models.concepts.losses import TrainingLoss, class_weights, concept_nll, diagnosis_nll, prior_logits
from dermo_ray.models.concepts.measures import measure
from dermo_ray.models.concepts.model import activate
from dermo_ray.models.concepts.ranking import auroc
from dermo_ray.models.concepts.vocabulary import CONCEPTS, FIELD_SLICES, SCHEMAS, likeliest, vector
from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology, agreement
from dermo_ray.phantom import PhantomSettings, draw
from dermo_ray.records import GroundTruth
from dermo_ray.report.concepts import write_concept_report
from rewards import Scorer, mavic_reward

SMALL = EncoderSettings(size=48, widths=(8, 16), depths=(1, 1))
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LABELS = {"skincon": ["Psoriasis", "Rosacea", "Vitiligo"], "derm7pt": ["Melanoma", "Melanocytic Nevus"]}
PSORIASIS = Morphology("skincon", features=frozenset({"Plaque", "Scale", "Erythema", "White(Hypopigmentation)"}))


def morphology_of(*values: int) -> Morphology:
    """A Derm7pt morphology by the place of each value in its field."""
    fields = {name: choices[k] for (name, choices), k in zip(DERM7PT_FIELDS.items(), values, strict=True)}
    return Morphology("derm7pt", fields=fields)


def features_of(probabilities: dict[str, float]) -> np.ndarray:
    return np.array([probabilities.get(name, 0.0) for name in SKINCON_FEATURES])


def stored(number: int = 0, modality: str = "clinical", **values) -> StoredSample:
    common = {"id": f"s{number}", "source": "s", "group": f"g{number}", "modality": modality, "image": f"{number}.png"}
    return StoredSample(**{"label": None, "morphology": None, "annotation": None} | common | values)


def random_model(seed: int = 0) -> ConceptModel:
    """A model whose heads say something, for lack of training."""
    torch.manual_seed(seed)
    model = new_model(SMALL, LABELS, list(SCHEMAS))
    for head in (*model.concepts.values(), *model.diagnosis.values()):
        torch.nn.init.normal_(head.weight, std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Phantoms of several sizes and both modalities."""
    return [Image.fromarray(draw(seed, PhantomSettings(size=48 + 8 * (seed % 3))).image) for seed in range(12)]


@pytest.fixture(scope="module")
def scorer() -> ConceptScorer:
    return ConceptScorer(random_model(), new_processor(SMALL))


# What fits an image


def test_expected_agreement_is_the_mean_agreement_over_all_references() -> None:
    chances = {"Plaque": 0.9, "Scale": 0.7, "Erythema": 0.4, "Crust": 0.1, "Papule": 0.02}
    stated = Morphology("skincon", features=frozenset({"Plaque", "Erythema", "Wheal"}), unknown=1)
    mean = 0.0
    for present in itertools.product((True, False), repeat=len(chances)):
        chance = np.prod([p if there else 1 - p for p, there in zip(chances.values(), present, strict=True)])
        reference = Morphology("skincon", features=frozenset(itertools.compress(chances, present)))
        mean += chance * agreement(stated, reference)
    assert expected_agreement(stated, features_of(chances)) == pytest.approx(mean, abs=1e-12)


def test_expected_agreement_of_fields_is_the_mean_probability_of_what_is_stated() -> None:
    probabilities = np.zeros(28)
    for place in FIELD_SLICES.values():
        probabilities[place][:2] = (0.75, 0.25)
    stated = morphology_of(0, 0, 0, 0, 1, 1, 2)
    assert expected_agreement(stated, probabilities) == pytest.approx((4 * 0.75 + 2 * 0.25) / 7)
    assert best_agreement("derm7pt", probabilities) == pytest.approx(0.75)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_no_statement_expects_more_agreement_than_the_best(chances: list[float]) -> None:
    names = SKINCON_FEATURES[:6]
    probabilities = features_of(dict(zip(names, chances, strict=True)))
    possible = [
        expected_agreement(Morphology("skincon", features=frozenset(itertools.compress(names, chosen))), probabilities)
        for chosen in itertools.product((True, False), repeat=6)
    ]
    assert best_agreement("skincon", probabilities) == pytest.approx(max(possible), abs=1e-12)


def image_of(scorer: ConceptScorer, **probabilities: np.ndarray) -> ImageConcepts:
    return ImageConcepts({"skincon": np.full(48, 0.01), "derm7pt": np.full(28, 0.2)} | probabilities, scorer)


@pytest.mark.parametrize(
    "attack",
    [
        Morphology("skincon", features=frozenset(SKINCON_FEATURES)),
        Morphology("skincon"),
        Morphology("skincon", features=PSORIASIS.features | {"Papule", "Nodule", "Patch", "Macule"}),
        Morphology("skincon", features=frozenset({"Plaque"})),
        Morphology("skincon", features=PSORIASIS.features, unknown=5),
    ],
    ids=["all", "none", "hedging", "too little", "inventions"],
)
def test_the_honest_statement_beats_every_attack(scorer: ConceptScorer, attack: Morphology) -> None:
    seen = image_of(scorer, skincon=features_of(dict.fromkeys(PSORIASIS.features, 0.95)) + 0.01)
    assert seen.image_fit(PSORIASIS) == pytest.approx(1.0)
    assert seen.image_fit(attack) < 0.75


def test_where_nothing_is_to_be_seen_nothing_is_the_best_statement(scorer: ConceptScorer) -> None:
    assert image_of(scorer, skincon=np.full(48, 0.001)).image_fit(Morphology("skincon")) == 1.0


def test_a_field_that_is_left_out_costs_its_share(scorer: ConceptScorer) -> None:
    stated = morphology_of(2, 1, 0, 3, 2, 2, 0)
    seen = image_of(scorer, derm7pt=vector(stated).astype(float))
    partial = Morphology("derm7pt", fields=dict(list(stated.fields.items())[:5]), missing=2)
    assert seen.image_fit(stated) == 1.0
    assert seen.image_fit(partial) == pytest.approx(5 / 7)


def test_the_consistency_term_tells_true_from_shuffled_completions(scorer: ConceptScorer) -> None:
    morphologies = [morphology_of(*np.random.default_rng(seed).integers((3, 2, 8, 5, 3, 3, 4))) for seed in range(40)]
    truth = GroundTruth(task="task1", modality="dermoscopic")
    terms = []
    for shift in (0, 1):
        for number, morphology in enumerate(morphologies):
            seen = image_of(scorer, derm7pt=0.8 * vector(morphology) + 0.05)
            text = render(Completion("task1", None, morphologies[(number + shift) % 40], "Seen.", None))
            terms.append(mavic_reward(text, truth, RewardConfig(), seen).terms["consistency"])
    assert auroc(np.repeat([1, 0], 40), terms, np.ones((1, 80)))[0] > 0.99


def test_the_diagnosis_follows_from_what_is_stated_whatever_the_image_shows(
    scorer: ConceptScorer, images: list[Image.Image]
) -> None:
    seen = scorer.concepts_of(images[:2])
    fits = [[image.diagnosis_fit(PSORIASIS, label) for label in LABELS["skincon"]] for image in seen]
    assert fits[0] == fits[1]
    assert max(fits[0]) == 1.0
    assert 0 < min(fits[0]) < 1
    assert seen[0].diagnosis_fit(PSORIASIS, "Melanoma") == 0.0


def test_a_group_asks_the_linear_head_once_and_gets_what_each_completion_gets_alone(
    images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = ConceptScorer(random_model(), new_processor(SMALL))
    scorer._model.config.temperatures = {"skincon/diagnosis": 0.7, "derm7pt/diagnosis": 1.3}
    asked: list[int] = []
    answer = ConceptScorer.diagnosis_fits

    def counted(self: ConceptScorer, statements) -> list[float]:
        asked.append(len(statements))
        return answer(self, statements)

    monkeypatch.setattr(ConceptScorer, "diagnosis_fits", counted)
    rng = np.random.default_rng(0)
    dermoscopic = [morphology_of(*rng.integers((3, 2, 8, 5, 3, 3, 4))) for _ in range(20)]
    clinical = [Morphology("skincon", features=frozenset(rng.choice(SKINCON_FEATURES, 5))) for _ in range(20)]
    for stated, truth in (
        (dermoscopic, GroundTruth(task="task3", modality="dermoscopic", final_label="Melanoma")),
        (clinical, GroundTruth(task="task3", modality="clinical", final_label="Rosacea")),
    ):
        labels = [*LABELS["derm7pt"], *LABELS["skincon"], "Lichen Planus", "none of these"]
        texts = [
            render(Completion("task3", "Seen.", morphology, None, labels[number % len(labels)]))
            for number, morphology in enumerate(stated)
        ]
        texts += ["", "<morph>{}</morph>"]
        seen = scorer.concepts(images[0])
        alone = [mavic_reward(text, truth, RewardConfig(), seen) for text in texts]
        calls = len(asked)
        assert Scorer(RewardConfig()).score(texts, [truth] * len(texts), seen) == alone
        assert len(asked) == calls + 1
        assert len({reward.terms["consistency"] for reward in alone}) > 5


def test_a_right_label_that_the_model_never_met_is_not_held_against_a_completion(
    scorer: ConceptScorer, images: list[Image.Image]
) -> None:
    seen = scorer.concepts(images[0])
    truth = GroundTruth(task="task3", modality="clinical", final_label="Lichen Planus")
    right, wrong = (
        mavic_reward(render(Completion("task3", "Seen.", PSORIASIS, None, label)), truth, RewardConfig(), seen)
        for label in ("Lichen Planus", LABELS["skincon"][0])
    )
    assert not seen.knows("skincon", "Lichen Planus")
    assert seen.knows("skincon", LABELS["skincon"][0])
    assert right.terms["consistency"] == wrong.terms["consistency"] == seen.image_fit(PSORIASIS)
    assert right.total > wrong.total


def test_a_diagnosis_fits_as_the_model_itself_says() -> None:
    model = random_model()
    model.config.temperatures = {"skincon/diagnosis": 0.7}
    fits = ConceptScorer(model, None).diagnosis_fits([(PSORIASIS, label) for label in LABELS["skincon"]])
    with torch.no_grad():
        probabilities = model.diagnose("skincon", torch.from_numpy(vector(PSORIASIS))[None])[0]
    assert fits == pytest.approx((probabilities / probabilities.max()).tolist(), rel=1e-5)


def test_images_are_encoded_alike_in_a_batch_and_one_by_one(scorer: ConceptScorer, images: list[Image.Image]) -> None:
    together = scorer.concepts_of(images)
    for image, batched in zip(images, together, strict=True):
        alone = scorer.concepts(image)
        for schema in SCHEMAS:
            assert np.abs(alone.probabilities[schema] - batched.probabilities[schema]).max() < 1e-6
        assert alone.image_fit(PSORIASIS) == pytest.approx(batched.image_fit(PSORIASIS), abs=1e-6)


def test_the_likeliest_morphology_is_complete_and_that_of_the_highest_probabilities() -> None:
    stated = Morphology("derm7pt", fields={name: values[-1] for name, values in DERM7PT_FIELDS.items()})
    assert likeliest("derm7pt", 0.3 + 0.4 * vector(stated).astype(float)) == stated
    assert likeliest("skincon", features_of({"Plaque": 0.9, "Scale": 0.5, "Crust": 0.51})).features == {
        "Plaque",
        "Crust",
    }


def test_a_model_is_not_asked_about_concepts_that_it_never_learned(images: list[Image.Image]) -> None:
    scorer = ConceptScorer(new_model(SMALL, {}, ["derm7pt"]), new_processor(SMALL))
    assert scorer.schemas == ("derm7pt",)
    with pytest.raises(UserError, match="knows no skincon concepts"):
        scorer.concepts(images[0]).image_fit(PSORIASIS)


# The model and its folder


def test_the_saved_model_is_one_that_transformers_loads(tmp_path, images: list[Image.Image]) -> None:
    model = random_model()
    model.config.temperatures = {"skincon": 2.0, "derm7pt/diagnosis": 0.5}
    model.save_pretrained(tmp_path)
    new_processor(SMALL).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.labels == LABELS
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        first, second = model(pixels), loaded(pixels)
    assert first.keys() == {"skincon", "derm7pt", "skincon_diagnosis", "derm7pt_diagnosis"}
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert ConceptScorer.of(tmp_path).schemas == SCHEMAS


def test_probabilities_are_those_of_one_answer_a_field_and_one_diagnosis() -> None:
    model = random_model()
    with torch.no_grad():
        output = model(torch.randn(3, 3, 48, 48))
    for place in FIELD_SLICES.values():
        assert torch.allclose(output.derm7pt[:, place].sum(dim=1), torch.ones(3))
    assert torch.allclose(output.skincon_diagnosis.sum(dim=1), torch.ones(3))
    again = model.diagnose("skincon", output.skincon)
    assert torch.equal(again, output.skincon_diagnosis)  # the concepts are all that the diagnosis sees


ENCODERS = {
    "vit": lambda: ViTModel(ViTConfig(**TINY, image_size=32, patch_size=8)),
    "convnext": lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
    "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
    # the configurations of these don't name the channels that come out, or others
    "efficientnet": lambda: EfficientNetModel(
        EfficientNetConfig(image_size=32, width_coefficient=0.1, depth_coefficient=0.3, hidden_dim=128)
    ),
    "mobilenet_v2": lambda: MobileNetV2Model(MobileNetV2Config(image_size=32, depth_multiplier=0.25)),
    "mobilevit": lambda: MobileViTModel(
        MobileViTConfig(image_size=64, hidden_sizes=[8, 12, 16], neck_hidden_sizes=[4, 4, 8, 8, 12, 16, 20])
    ),
    "clip": lambda: CLIPModel(
        CLIPConfig(text_config=TINY | {"vocab_size": 50}, vision_config=TINY | {"image_size": 32, "patch_size": 8})
    ),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_any_image_encoder_is_taken_with_its_weights(kind: str, tmp_path, images: list[Image.Image]) -> None:
    encoder, side = ENCODERS[kind](), 64 if kind == "mobilevit" else 32
    expected = encoder.vision_model if kind == "clip" else encoder
    size = {"height": side, "width": side}
    processor = (
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size=size)
        if kind == "clip"
        else ViTImageProcessor(size=size)
    )
    encoder.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    chosen = EncoderSettings(path=tmp_path)
    model = new_model(chosen, LABELS, list(SCHEMAS)).eval()
    pixels = new_processor(chosen)(images=images[:2], return_tensors="pt").pixel_values
    with torch.no_grad():
        hidden = model.encoder(pixel_values=pixels).last_hidden_state
        assert torch.allclose(hidden, expected.eval()(pixel_values=pixels).last_hidden_state, atol=1e-6)
        assert model(pixels).skincon.shape == (2, 48)
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path / "saved").eval()(pixels).skincon, model(pixels).skincon)


def test_a_model_that_is_no_image_encoder_is_named_in_one_line(tmp_path) -> None:
    BertModel(BertConfig(**TINY, vocab_size=50)).save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertModel gives no last_hidden_state for an image") as caught:
        new_model(EncoderSettings(path=tmp_path), LABELS, list(SCHEMAS))
    assert "\n" not in str(caught.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="can't be opened as an image encoder") as caught:
        new_model(EncoderSettings(path=tmp_path), LABELS, list(SCHEMAS))
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match="holds no concept model"):
        ConceptScorer.of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="type vit"):
        ConceptScorer.of(tmp_path)
    with pytest.raises(UserError, match="holds no image encoder"):
        new_model(EncoderSettings(path=tmp_path / "nothing"), {}, [])


def test_weights_of_the_linear_head_are_shown_without_what_the_softmax_forgets() -> None:
    model = random_model()
    shown = model.contrast("derm7pt")
    with torch.no_grad():
        model.diagnosis["derm7pt"].weight += torch.randn(28)  # the same for every label
        model.diagnosis["derm7pt"].weight[:, FIELD_SLICES["Streaks"]] += torch.randn(2, 1)  # goes into the bias
    assert torch.allclose(model.contrast("derm7pt"), shown, atol=1e-5)


# What it learns


@pytest.mark.parametrize("cap", [1.0, 5.0])
def test_class_weights_leave_the_best_probabilities_where_they_are(cap: float) -> None:
    rng = torch.Generator().manual_seed(0)
    shares = torch.rand(48, generator=rng) * 0.5
    clinical = (torch.arange(200)[:, None] < 200 * shares).float()
    dermoscopic = torch.zeros(200, 28)
    for place in FIELD_SLICES.values():
        width = place.stop - place.start
        values = (
            torch.randint(width * width, (200,), generator=rng).sqrt().long()
        )  # the last value is the most frequent
        dermoscopic[torch.arange(200), place.start + values] = 1
    labels = torch.randint(9, (200,), generator=rng).sqrt().long()
    everywhere, nowhere = torch.ones(200), torch.full((200,), NO_LABEL)
    targets = Targets(
        {"skincon": clinical, "derm7pt": dermoscopic},
        {"skincon": everywhere, "derm7pt": everywhere},
        {"skincon": labels, "derm7pt": nowhere},
    )
    weights = class_weights(targets, LABELS, cap)
    for schema in SCHEMAS:
        stated = targets.concepts[schema]
        logits = activate_inverse(schema, stated.mean(dim=0)).requires_grad_()
        concept_nll(schema, logits.expand(200, -1), stated, weights[schema]).mean().backward()
        assert logits.grad.abs().max() < 1e-5
        assert torch.allclose(activate(schema, prior_logits(schema, targets)), stated.mean(dim=0), atol=0.01)
    logits = (torch.bincount(labels, minlength=3) / 200).log().requires_grad_()
    diagnosis_nll(logits.expand(200, -1), labels, weights["skincon/diagnosis"]).mean().backward()
    assert logits.grad.abs().max() < 1e-5
    assert all(1 / cap <= float(w.min()) and float(w.max()) <= cap for w in weights.values())


def activate_inverse(schema: str, shares: torch.Tensor) -> torch.Tensor:
    shares = shares.clamp(1e-6, 1 - 1e-6)
    return shares.logit() if schema == "skincon" else shares.log()


def gradients(sample: StoredSample) -> dict[str, float]:
    """The largest gradient in each part of the model after one image."""
    samples = ConceptSamples([sample], Path())
    model = random_model().train()
    targets = samples.targets([0], LABELS)
    loss = TrainingLoss(model, class_weights(targets, LABELS, cap=1.0))
    sum(loss(torch.randn(1, 3, 48, 48), targets).values()).backward()
    parts = {"encoder": model.encoder, **{f"concepts/{s}": model.concepts[s] for s in SCHEMAS}}
    parts |= {f"diagnosis/{s}": model.diagnosis[s] for s in SCHEMAS}
    return {
        name: max(float(p.grad.abs().max()) for p in part.parameters() if p.grad is not None)
        for name, part in parts.items()
    }


@pytest.mark.parametrize(
    ("sample", "trained"),
    [
        (stored(label="Rosacea"), {"diagnosis/skincon"}),
        (stored(annotation=PSORIASIS), {"encoder", "concepts/skincon"}),
        (stored(annotation=PSORIASIS, label="Psoriasis"), {"encoder", "concepts/skincon", "diagnosis/skincon"}),
        (stored(modality="dermoscopic", annotation=morphology_of(*[0] * 7)), {"encoder", "concepts/derm7pt"}),
        (stored(modality="dermoscopic", annotation=PSORIASIS), set()),
        (stored(label="never seen in training"), set()),
        (stored(), set()),
    ],
    ids=["label", "annotation", "both", "dermoscopic", "other schema", "other label", "nothing"],
)
def test_an_image_trains_what_is_known_about_it_and_nothing_else(sample: StoredSample, trained: set[str]) -> None:
    assert {part for part, gradient in gradients(sample).items() if gradient > 0} == trained


def test_a_field_that_is_missing_from_an_annotation_is_not_learned() -> None:
    partial = Morphology("derm7pt", fields={"Streaks": "irregular"}, missing=6)
    samples = ConceptSamples([stored(modality="dermoscopic", annotation=partial)], Path())
    logits = torch.zeros(1, 28, requires_grad=True)
    concept_nll("derm7pt", logits, samples.targets([0], {}).concepts["derm7pt"]).sum().backward()
    touched = logits.grad[0] != 0
    assert touched[FIELD_SLICES["Streaks"]].all()
    assert touched.sum() == 3


def test_truth_and_annotation_are_kept_apart() -> None:
    samples = ConceptSamples([stored(morphology=PSORIASIS, annotation=Morphology("skincon"))], Path())
    assert samples.truth.values["skincon"].sum() == 4
    assert samples.annotation.values["skincon"].sum() == 0
    assert samples.annotation.observed["skincon"].all()  # nothing present is a statement, too


@pytest.mark.parametrize(("by_machine", "observed"), [(False, [True, False, True]), (True, [True, True, True])])
def test_what_a_machine_annotated_is_learned_only_where_the_settings_say_so(
    by_machine: bool, observed: list[bool]
) -> None:
    teacher, writer = json.dumps({"morphology": {"model": "m"}}), json.dumps({"description": {"model": "m"}})
    samples = ConceptSamples(
        [
            stored(0, annotation=PSORIASIS, morphology=PSORIASIS),
            stored(1, annotation=PSORIASIS, annotator=teacher),
            stored(2, annotation=PSORIASIS, annotator=writer),
        ],
        Path(),
        by_machine,
    )
    assert samples.annotation.observed["skincon"].tolist() == observed
    assert samples.annotation.values["skincon"].any(dim=1).tolist() == observed
    assert samples.left_out == observed.count(False)


def test_labels_and_schemas_are_those_that_occur_in_training() -> None:
    samples = ConceptSamples(
        [
            stored(0, label="Rosacea", annotation=PSORIASIS),
            stored(1, label="Acne Vulgaris"),
            stored(2, label="Rosacea"),
            stored(3, modality="dermoscopic", label="Melanoma"),
        ],
        Path(),
    )
    assert samples.vocabulary() == {"skincon": ["Acne Vulgaris", "Rosacea"]}  # one label alone leaves no choice
    assert samples.annotated_schemas() == ["skincon"]


# Calibration and measures


def drawn_targets(model: ConceptModel, logits: dict[str, torch.Tensor]) -> Targets:
    """Morphologies and diagnoses as likely as `model` says at temperature 1."""
    rng = torch.Generator().manual_seed(1)
    concepts, labels = {}, {}
    for schema in SCHEMAS:
        p = activate(schema, logits[schema])
        if schema == "skincon":
            concepts[schema] = torch.bernoulli(p, generator=rng)
        else:
            concepts[schema] = torch.zeros_like(p)
            for place in FIELD_SLICES.values():
                value = torch.multinomial(p[:, place], 1, generator=rng)
                concepts[schema][:, place] = torch.zeros_like(p[:, place]).scatter_(1, value, 1.0)
        labels[schema] = torch.multinomial(model.diagnosis_logits(schema, p).softmax(1), 1, generator=rng)[:, 0]
    return Targets(concepts, {schema: torch.ones(len(p)) for schema in SCHEMAS}, labels)


@torch.no_grad()
def test_calibration_finds_by_how_much_logits_are_too_large() -> None:
    model = random_model()
    logits = {schema: torch.randn(3000, len(CONCEPTS[schema])) for schema in SCHEMAS}
    targets = drawn_targets(model, logits)
    boasting = {schema: 3 * value for schema, value in logits.items()}
    before = mean_losses(model, boasting, targets)
    calibrate(model, boasting, targets)
    after = mean_losses(model, boasting, targets)
    assert [model.config.temperature_of(schema) for schema in SCHEMAS] == pytest.approx([3.0, 3.0], rel=0.05)
    assert model.config.temperature_of("skincon/diagnosis") == pytest.approx(1.0, rel=0.25)
    assert all(after[schema] < before[schema] for schema in SCHEMAS)
    heads = calibrations(model, boasting, targets)
    assert all(heads[schema].ece_before > 0.1 and heads[schema].ece_after < 0.02 for schema in SCHEMAS)


def test_calibration_error_is_the_gap_between_promise_and_outcome() -> None:
    assert ece([0.9] * 10, [1] * 9 + [0]) == pytest.approx(0.0)
    assert ece([0.9] * 10 + [0.1] * 10, [1] * 5 + [0] * 15) == pytest.approx((0.4 + 0.1) / 2)
    assert ece([1.0, 0.0], [1, 0]) == 0.0


def test_auroc_counts_pairs_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    positive, scores = rng.integers(2, size=60), rng.integers(8, size=60)
    weights = rng.integers(4, size=(3, 60)).astype(float)
    for row, result in zip(weights, auroc(positive, scores, weights), strict=True):
        won = pairs = 0.0
        for i, j in itertools.product(np.flatnonzero(positive), np.flatnonzero(positive == 0)):
            won += row[i] * row[j] * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
            pairs += row[i] * row[j]
        assert result == pytest.approx(won / pairs)
    assert np.isnan(auroc([1, 1], [0, 1], np.ones((1, 2)))[0])


@pytest.fixture(scope="module")
def measured():
    """Forty images of each modality; the model sees the truth, the annotators miss one feature and one field."""
    samples = []
    for seed in range(80):
        modality = "clinical" if seed < 40 else "dermoscopic"
        phantom = draw(seed, PhantomSettings(size=48), modality=modality)
        truth = phantom.morphology
        if modality == "clinical":
            written = Morphology("skincon", features=frozenset(sorted(truth.features)[1:]))
        else:
            written = Morphology("derm7pt", fields={**truth.fields, "Blue Whitish Veil": "absent"})
        label = phantom.diagnosis if seed % 10 else None
        samples.append(
            stored(seed, modality, morphology=truth, annotation=written, label=label, skin_tone=phantom.skin_tone)
        )
    images = ConceptSamples(samples, Path())
    torch.manual_seed(0)
    model = new_model(SMALL, images.vocabulary(), list(SCHEMAS))
    logits = {schema: 20 * images.truth.values[schema].float() - 10 for schema in SCHEMAS}
    return measure(model, images, logits, "test"), images


def test_a_model_that_sees_the_truth_is_measured_as_perfect_against_it_alone(measured) -> None:
    measures, images = measured
    truth, written = measures.concepts["truth"], measures.concepts["annotation"]
    assert truth.skincon.mean_auroc.mean == truth.derm7pt.mean_accuracy.mean == 1.0
    veil = images.truth.values["derm7pt"][40:, FIELD_SLICES["Blue Whitish Veil"].start].float().mean()
    assert written.derm7pt.fields["Blue Whitish Veil"].accuracy.mean == pytest.approx(float(veil))
    assert written.derm7pt.fields["Streaks"].accuracy.mean == 1.0
    assert written.skincon.mean_auroc.mean < 1.0
    assert {tone: score.morphology.mean for tone, score in measures.skin_tone.items()} == dict.fromkeys(
        measures.skin_tone, 1.0
    )


def test_images_without_a_label_are_not_asked_for_a_diagnosis(measured) -> None:
    measures, images = measured
    assert measures.diagnosis["skincon"].images == measures.diagnosis["derm7pt"].images == 36
    first = images.vocabulary()["skincon"][0]  # the untrained head ties, and the first label wins
    share = sum(label == first for label in images.labels[:40]) / 36
    assert measures.diagnosis["skincon"].seen.mean == pytest.approx(share)
    assert measures.diagnosis["skincon"].given.keys() == {"annotation", "truth"}


def test_seen_and_given_concepts_are_compared_over_the_same_images() -> None:
    # the model sees nothing and always says psoriasis: right about 2 of 5 images, and 1 of the 2 that are annotated
    samples = ConceptSamples(
        [
            stored(0, label="Psoriasis", annotation=PSORIASIS),
            stored(1, label="Psoriasis"),
            stored(2, label="Rosacea", annotation=Morphology("skincon")),
            stored(3, label="Rosacea"),
            stored(4, label="Rosacea"),
        ],
        Path(),
    )
    model = new_model(SMALL, {"skincon": ["Psoriasis", "Rosacea"]}, ["skincon"])
    model.diagnosis["skincon"].bias.data = torch.tensor([0.5, 0.0])
    model.diagnosis["skincon"].weight.data[0] = torch.from_numpy(vector(PSORIASIS))
    model.diagnosis["skincon"].weight.data[1] = 1 - torch.from_numpy(vector(PSORIASIS))
    nothing = {schema: torch.full((5, len(CONCEPTS[schema])), -20.0) for schema in SCHEMAS}
    score = measure(model, samples, nothing, "test").diagnosis["skincon"]
    compared = score.given["annotation"]
    assert (score.images, score.seen.mean) == (5, pytest.approx(2 / 5))
    assert (compared.images, compared.seen.mean, compared.given.mean) == (2, 0.5, 0.5)


def test_every_value_of_a_field_is_measured_against_the_others(measured) -> None:
    measures, images = measured
    truth, written = measures.concepts["truth"].derm7pt, measures.concepts["annotation"].derm7pt
    streaks = images.truth.values["derm7pt"][40:, FIELD_SLICES["Streaks"]].sum(dim=0).tolist()
    assert {name: score.present for name, score in truth.fields["Streaks"].values.items()} == dict(
        zip(DERM7PT_FIELDS["Streaks"], streaks, strict=True)
    )
    told = [score for field in truth.fields.values() for score in field.values.values() if score.auroc]
    assert len(told) > 10
    assert {(score.auroc.mean, score.f1) for score in told} == {(1.0, 1.0)}
    veil = written.fields["Blue Whitish Veil"].values
    assert veil["absent"].auroc is None  # the annotators saw no veil at all
    assert 0 < veil["absent"].f1 < 1
    assert veil["present"].f1 == 0


def test_the_report_needs_nothing_outside_itself_and_names_every_concept_that_is_measured(measured, tmp_path) -> None:
    measures, _ = measured
    page = write_concept_report(tmp_path, measures).read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    told = [name for name, score in measures.concepts["truth"].skincon.features.items() if score.auroc]
    assert told
    assert all(f">{name}<" in page for name in (*told, *DERM7PT_FIELDS))
    values = measures.concepts["truth"].derm7pt.fields["Streaks"].values
    assert all(f">Streaks: {value}<" in page for value, score in values.items() if score.auroc)
    assert all(label in page for labels in measures.weights.values() for label in labels)
    with Image.open(tmp_path / "linear_head.png") as picture:
        assert picture.width > 500
