import json

import pytest

from tests.errors import raises_code
from webapp.engine.sampling_params import SamplingParams


def test_json_brings_back_the_same():
    params = SamplingParams(logit_bias={7: 1.5}, stop_token_ids=(0, 3), stop_token_sequences=((1, 2), (3,)), seed=9)
    assert SamplingParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", [1, 2]),
        ("logit_bias", {"seven": 1}),
        ("logit_bias", {"7": None}),
        ("stop_token_ids", 5),
        ("stop_token_ids", ["x"]),
        ("stop_token_sequences", [5]),
        ("temperature", "hot"),
    ],
)
def test_a_value_of_another_form_is_named(name, value):
    with raises_code("sampling_invalid") as caught:
        SamplingParams.from_dict({name: value})
    assert caught.value.params["name"] == name
