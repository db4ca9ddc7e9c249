from tests.services.scripted_manager import ScriptedManager
from webapp.chat.prompts import PromptPiece, RenderedPrompt
from webapp.engine.outputs import FinishReason
from webapp.engine.sampling_params import SamplingParams
from webapp.services.generation.generation import generate

PROMPT = RenderedPrompt((PromptPiece("User: Hi\n\nAssistant:"),), ("\n\nUser:",))


def test_it_is_the_text_up_to_the_stop(world):
    found = generate(ScriptedManager(world, " Hello.\n\nUser: more"), PROMPT, SamplingParams())
    assert (found.text.content, found.finish_reason) == ("Hello.", FinishReason.STOP)


def test_stops_of_the_caller_count_beside_those_of_the_template(world):
    manager = ScriptedManager(world, " Hello.")
    generate(manager, PROMPT, SamplingParams(stop_token_sequences=((7, 8),)))
    assert manager.requests[0].params.stop_token_sequences == ((7, 8), tuple(world.encode("\n\nUser:")))
