import json

import pytest

from tests.errors import raises_code
from webapp.i18n.translation import catalogue
from webapp.services.downloads.catalogue import known_models
from webapp.services.presets import files
from webapp.services.presets.fields import (
    PARAMETERS,
    SAMPLING,
    changed_names,
    checked_fields,
    escaped,
    flat,
    put,
    read_fields,
    unescaped,
)
from webapp.services.presets.files import read_runner_presets, runner_strategy
from webapp.services.presets.presets import shipped_presets
from webapp.services.strategy import validate
from webapp.storage.presets import Preset

NOTHING = Preset("", "")


def made_of(values):
    return Preset(**{"id": "", "name": "", **put(NOTHING, checked_fields(values))})


def test_a_forms_texts_become_values():
    form = {"temperature": "0.5", "max_tokens": "800", "global_penalty": "on", "stop": "END\\n\r\nUser:", "seed": "7"}
    values = checked_fields(form)
    assert values["stop"] == ("END\n", "User:")
    assert (values["temperature"], values["max_tokens"], values["global_penalty"], values["seed"]) == (
        0.5,
        800,
        True,
        7,
    )


def test_nothing_in_a_number_takes_the_override_away():
    preset = made_of({"temperature": 0.5, "threads": 4})
    changes = put(preset, checked_fields({"temperature": "", "threads": None}))
    assert changes == {"sampling": {}, "options": {}}


def test_preset_fields_are_flattened_without_loss():
    given = {
        "name": "Mine",
        "top_k": 40,
        "min_p": 0.1,
        "system_prompt": "Be kind.",
        "model": "a.pth",
        "idle_unload_s": 60.0,
    }
    assert given.items() <= flat(made_of(given)).items()
    assert changed_names(NOTHING, made_of(given)) == ("top_k", "min_p", "system_prompt", "model", "idle_unload_s")


PATHS = ("../../x", "/etc/passwd", "a/../b", "~/x.pth", "C:/x", "C:\\x", "\\\\host\\x", "a//b", "./x", "disk:/x", "..")


@pytest.mark.parametrize("name", ["", "x.pth", "folder/x.pth", "disk:folder/x.pth", "a..b.pth", "-", "模型.pth"])
def test_a_name_in_the_library_is_kept(name):
    assert read_fields({"model": name, "state": name}) == ({"model": name, "state": name}, {})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *((name, path, "preset_invalid") for name in ("model", "state", "tokenizer") for path in PATHS),
        ("max_tokens", 10**9, "preset_out_of_range"),
        ("max_tokens", "1e309", "preset_invalid"),
        ("max_tokens", 1.5, "preset_invalid"),
        ("max_tokens", True, "preset_invalid"),
        ("max_tokens", [1], "preset_invalid"),
        ("temperature", "nan", "preset_invalid"),
        ("temperature", "-Infinity", "preset_invalid"),
        ("temperature", -0.01, "preset_out_of_range"),
        ("top_p", {"a": 1}, "preset_invalid"),
        ("top_k", 65_537, "preset_out_of_range"),
        ("seed", -1, "preset_out_of_range"),
        ("seed", 10**400, "preset_invalid"),
        ("global_penalty", "perhaps", "preset_invalid"),
        ("template", "../../etc/passwd", "preset_invalid"),
        ("think_mode", None, None),
        ("think_mode", "forever", "preset_invalid"),
        ("stop", ["x"] * 17, "preset_too_long"),
        ("stop", ["x" * 201], "preset_too_long"),
        ("stop", [1], "preset_invalid"),
        ("stop", {"0": "a"}, "preset_invalid"),
        ("system_prompt", "x" * 20_001, "preset_too_long"),
        ("system_prompt", 3, "preset_invalid"),
        ("model", "a\nb.pth", "preset_invalid"),
        ("model", "a\0b.pth", "preset_invalid"),
        ("model", "x" * 501, "preset_too_long"),
        ("strategy", "cuda fp16 *" + "9" * 5000, "preset_too_long"),
        ("state", "\x1b[31m", "preset_invalid"),
        ("threads", 4097, "preset_out_of_range"),
        ("prefill_chunk", -64, "preset_out_of_range"),
        ("idle_unload_s", "soon", "preset_invalid"),
        ("name", "", "preset_unnamed"),
        ("name", " \t ", "preset_unnamed"),
        ("name", "x" * 81, "preset_too_long"),
        ("precision", "fp16", "preset_invalid"),
        ("__class__", "x", "preset_invalid"),
        ("logit_bias", {"1": 1}, "preset_invalid"),
    ],
)
def test_each_value_that_cannot_be_is_named(name, value, error):
    values, problems = read_fields({name: value, "note": "kept"})
    assert values["note"] == "kept"
    if error is None:
        assert problems == {}
    else:
        assert problems[name].code == error and problems[name].params["name"] == name


def test_half_a_surrogate_pair_is_stored_as_something_that_can_be_written():
    assert checked_fields({"system_prompt": "a\ud800b"})["system_prompt"].encode()


@pytest.mark.parametrize("stop", ["\n\nUser:", "\\n", "a\tb\\", "\\\\n"])
def test_a_stop_text_survives_its_line_in_a_form(stop):
    assert unescaped(escaped(stop)) == stop


def test_an_import_restores_what_was_exported():
    presets = [made_of({"name": "A", "temperature": 0.2, "stop": ["\n"]}), made_of({"name": "B", "threads": 2})]
    assert files.read(files.write(presets)) == presets


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "not json",
        '{"format": "roost-presets", "version": 2, "presets": []}',
        '{"format": "roost-presets", "version": 1, "presets": []}',
        '{"format": "roost-presets", "version": 1, "presets": {}}',
        '{"format": "roost-presets", "version": 1, "presets": [1]}',
        '{"format": "roost-presets", "version": 1, "presets": [{"name": "a", "temperature": NaN}]}',
        "[" * 100_000,
        " " * (files.FILE_CHARS + 1),
        json.dumps({"format": "roost-presets", "version": 1, "presets": [{"name": "a"}] * 201}),
    ],
)
def test_an_invalid_file_is_refused(text):
    for read in (files.read, read_runner_presets):
        with raises_code("preset_file_invalid"):
            read(text)


def test_a_bad_value_in_a_file_says_in_which_preset():
    text = json.dumps({"format": "roost-presets", "version": 1, "presets": [{"name": "Mine", "top_p": 3}]})
    with raises_code("preset_out_of_range", name="Mine: top_p", value="3", least="0", most="1"):
        files.read(text)


RUNNER = {
    "modelConfigs": [
        {
            "name": "GPU-8G-3B",
            "apiParameters": {
                "apiPort": 8000,
                "maxResponseToken": 4100,
                "temperature": 1.2,
                "topP": 0.5,
                "presencePenalty": 0.4,
                "frequencyPenalty": 0.4,
                "penaltyDecay": 0.996,
                "globalPenalty": True,
                "stateModel": "state-models/kind.pth",
            },
            "modelParameters": {
                "modelName": "rwkv7-g1e-2.9b.pth",
                "device": "CUDA",
                "precision": "int8",
                "storedLayers": 24,
                "maxStoredLayers": 41,
                "tokenChunkSize": 64,
                "useCustomCuda": True,
            },
        }
    ],
    "currentModelConfigIndex": 0,
}


def test_runners_configurations_are_read():
    (preset,) = read_runner_presets(json.dumps(RUNNER))
    assert (preset.name, preset.model, preset.state) == ("GPU-8G-3B", "rwkv7-g1e-2.9b.pth", "kind.pth")
    assert preset.strategy == "cuda fp16i8 *24+"
    assert preset.sampling["max_tokens"] == 4100 and preset.sampling["global_penalty"] is True
    assert preset.options == {"custom_cuda": True, "prefill_chunk": 64}
    assert read_runner_presets(json.dumps(RUNNER["modelConfigs"])) == [preset]
    assert read_runner_presets(json.dumps(RUNNER["modelConfigs"][0])) == [preset]


@pytest.mark.parametrize(
    ("model", "strategy"),
    [
        ({"device": "CPU", "precision": "fp32"}, "cpu fp32"),
        ({"device": "CPU", "precision": "int8"}, "cpu fp32i8"),
        ({"device": "CUDA", "precision": "fp16", "storedLayers": 41, "maxStoredLayers": 41}, "cuda fp16"),
        ({"device": "Custom", "customStrategy": "cuda:0 fp16 *20 -> cuda:1 fp16"}, "cuda:0 fp16 *20 -> cuda:1 fp16"),
        ({"device": "CPU (rwkv.cpp)", "precision": "int8", "modelName": "World-1B6.pth"}, "rwkv.cpp q5_1"),
        ({"device": "CPU (rwkv.cpp)", "precision": "fp16", "modelName": "World-1B6.pth"}, "rwkv.cpp f16"),
        ({"device": "CPU (rwkv.cpp)", "precision": "int8", "modelName": "World-1B6-Q5_1.bin"}, "rwkv.cpp"),
        ({"device": "WebGPU (Python)", "precision": "nf4"}, "webgpu_python fp16i4 layer26"),
        (
            {"device": "WebGPU (Python)", "precision": "int8", "quantizedLayers": 12, "tokenChunkSize": 64},
            "webgpu_python fp16i8 layer12 chunk64",
        ),
        ({"device": "WebGPU", "precision": "int8", "quantizedLayers": 31}, "webgpu int8 layers=31"),
        ({"device": 5, "customStrategy": []}, ""),
    ],
)
def test_runners_devices_become_strategies(model, strategy):
    assert runner_strategy(model) == strategy


def test_what_runner_allows_and_roost_does_not_is_brought_into_range():
    rows = [{"name": "", "apiParameters": {"temperature": 99, "maxResponseToken": 0.5, "topP": -1}}]
    (preset,) = read_runner_presets(json.dumps(rows))
    assert preset.name == "RWKV-Runner 1"
    assert preset.sampling == {"temperature": 5, "max_tokens": 1, "top_p": 0}


def test_a_shipped_preset_can_run_as_it_says():
    models = {model.file for model in known_models()} | {"roost-starter-v7.safetensors", ""}
    for preset in shipped_presets():
        assert preset.model in models
        assert not preset.strategy or validate(preset.strategy).is_valid, preset.strategy


def test_shipped_names_are_the_english_words_of_the_catalogue():
    for preset in shipped_presets():
        key = f"presets.shipped.{preset.shipped_key}"
        assert catalogue().find(f"{key}.name", "en") == preset.name
        assert catalogue().find(f"{key}.note", "en") == preset.note


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_every_parameter_has_its_words(locale):
    for row in PARAMETERS:
        assert catalogue().find(row.label_key, locale) and catalogue().find(row.help_key, locale), row.name


def test_the_table_allows_what_the_sampler_allows():
    from webapp.engine.sampling_params import PARAMETERS

    assert [(row.name, row.least, row.most) for row in SAMPLING] == [
        (row.name, row.least, row.most) for row in PARAMETERS
    ]
