"""Conversations: how they are written, what of them fits, and the prompt in the terminal."""

import io
import json
import signal

import pytest
from conftest import command, refused

from maquette.base.errors import UserError
from maquette.cli import interrupts
from maquette.cli.chat import converse
from maquette.cli.terminal import Terminal
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.chat_template import (
    CHATML,
    QUESTIONS,
    JinjaTemplate,
    own_template,
    template_of,
)
from maquette.corpus.examples.example import Example
from maquette.corpus.examples.template import Template, encode
from maquette.corpus.tokenizer import byte_tokenizer, load_tokenizer
from maquette.serving.chat import Chat
from maquette.serving.sampler import Sampling
from tests.tiny_models import KINDS, write_files

HISTORY = [("hello", "the cat"), ("sat?", "world")]


@pytest.fixture
def chatml(tmp_path):
    """A folder with a tokenizer that ends a message with a token of its own."""
    kind = KINDS["an end of its own name"]
    write_files(tmp_path / "t", kind.tokenizer(), kind.settings | {"chat_template": CHATML})
    return tmp_path / "t"


@pytest.mark.parametrize("written", [QUESTIONS, "{prompt}{answer}", "<< {prompt} >>  {answer} ;"])
def test_a_question_is_asked_in_the_tokens_that_were_learned(written):
    tokenizer, template = byte_tokenizer(), Template(written)
    example = Example("why", "so", history=tuple(HISTORY))
    tokens, counted = encode(example, template, tokenizer)
    asked = template.conversation(HISTORY, "why", tokenizer)
    assert tokens.tolist()[: len(asked)] == asked
    assert counted[len(asked) :].all()
    assert not counted[len(asked) - 1]
    exported = JinjaTemplate(template.jinja())  # the same in Hugging Face's words
    assert encode(example, exported, tokenizer)[0].tolist() == tokens.tolist()
    with_system = template.conversation(HISTORY, "why", tokenizer, "Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert tokenizer.decode(with_system).startswith(exported.render(messages, tokenizer).rstrip())


def test_a_prompt_of_nothing_is_a_text_that_is_learned_whole():
    tokenizer = byte_tokenizer()
    tokens, counted = encode(Example("", "some text"), Template(QUESTIONS), tokenizer)
    assert tokenizer.decode(tokens.tolist()) == "<|endoftext|>some text<|endoftext|>"
    assert counted.tolist() == [0] + [1] * 10


def test_a_jinja_template_asks_as_transformers_does(chatml):
    import transformers

    tokenizer = load_tokenizer(chatml / "tokenizer.json")
    template = template_of("chat", tokenizer)
    assert template.text == CHATML
    messages = [{"role": "system", "content": "the mat"}]
    for prompt, answer in HISTORY:
        messages += [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
    messages.append({"role": "user", "content": "why"})
    reader = transformers.AutoTokenizer.from_pretrained(chatml)
    theirs = reader.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expected = reader(theirs, add_special_tokens=False)["input_ids"]
    asked = template.conversation(HISTORY, "why", tokenizer, "the mat")
    assert asked == expected
    example = Example("why", "so", history=tuple(HISTORY))
    tokens, counted = encode(example, template, tokenizer)
    learned = tokenizer.decode(tokens[counted == 1].tolist())
    assert learned == "the cat<|im_end|>world<|im_end|>so<|im_end|>"
    asked = template.conversation(HISTORY, "why", tokenizer)
    assert tokens.tolist()[: len(asked)] == asked


def test_the_template_that_fits_a_tokenizer(tmp_path, chatml):
    tokenizer = load_tokenizer(chatml / "tokenizer.json")
    del tokenizer.special.settings["chat_template"]
    assert own_template(tokenizer) == CHATML  # it has the tokens
    assert own_template(byte_tokenizer()) == QUESTIONS
    named = [{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ 1 }}"}]
    tokenizer.special.settings["chat_template"] = named
    assert own_template(tokenizer) == "{{ 1 }}"


LOOP = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ '' }}", "renders nothing"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "loses the prompt 'hello'"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
         "loses the answer 'the cat'"),
        (LOOP + "{% if add_generation_prompt %}?{% endif %}", "is another"),
        (LOOP + "{{ raise_exception('no cats') }}", "refuses the conversation: no cats"),
        (LOOP + "{{ 1 / 0 }}", "fails: division"),
        (LOOP + "{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        (LOOP + "{% if %}", "is none"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_template_is_one_line(text, said):
    tokenizer = byte_tokenizer()
    with pytest.raises(UserError, match=said):
        template_of(text, tokenizer).turns([("hello", "the cat")], tokenizer)


def chat_of(recipe, tokens=8):
    """A conversation with a model that was never trained, with a context of 32 bytes."""
    model = recipe.model.build().initialise(0).eval()
    sampling = Sampling(temperature=0)
    return Chat(model, byte_tokenizer(), Template(QUESTIONS), tokens=tokens, sampling=sampling)


def test_a_context_that_is_full_drops_the_oldest_and_says_so(recipe):
    chat = chat_of(recipe)
    chat.history = [("a", "b"), ("c", "d")]  # 8 bytes each with marks and end
    assert chat.ask("e").dropped == 1
    assert chat.first == 1
    fresh = Chat(chat.model, chat.tokenizer, chat.template, tokens=8)
    fresh.sampling, fresh.history = chat.sampling, [("c", "d")]
    fresh.history, expected = [("c", "d")], chat.history[2]
    assert fresh.ask("e").text == expected[1]  # as if the dropped had never been
    chat.reset()
    with pytest.raises(UserError, match="shorten the prompt"):
        chat.ask("x" * 30)
    assert chat.history == []
    assert chat.messages() == []


def test_an_interrupted_answer_stays_as_far_as_it_came(recipe, monkeypatch):
    chat = chat_of(recipe)

    def written(model, tokenizer, prompts, *, on_text, **settings):
        for piece in (" ", " so", " far "):
            on_text(piece)
        raise KeyboardInterrupt

    monkeypatch.setattr("maquette.serving.chat.continue_tokens", written)
    pieces = []
    with pytest.raises(KeyboardInterrupt):
        chat.ask("how?", pieces.append)
    assert pieces == ["so", " far "]
    assert chat.history == [("how?", "so far")]


def lines(*given):
    """A reader of what is typed: lines, and interrupts."""
    left = iter(given)

    def read():
        one = next(left, EOFError)
        if isinstance(one, str):
            return one
        raise one

    return read


def test_the_prompt_in_the_terminal(recipe, tmp_path, capsys):
    chat, terminal, out = chat_of(recipe), Terminal(False), tmp_path / "talk.jsonl"
    typed = ["/help", "", "/save", f"/save {out}", "the", KeyboardInterrupt, f"/save {out}",
             "x" * 40, "/nothing", f"/save {tmp_path}", "/reset", "cat"]  # fmt: skip
    replies = converse(chat, lines(*typed), terminal)
    said = capsys.readouterr().out
    assert [reply.text in said for reply in replies] == [True, True]
    for part in ("/reset forgets", "nothing to save yet", "name a file", "/quit leaves", "saved:",
                 "shorten the prompt", "unknown command /nothing", "name another file"):  # fmt: skip
        assert part in said
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["messages"][0] == {"role": "user", "content": "the"}
    assert [prompt for prompt, _ in chat.history] == ["cat"]
    assert converse(chat, lines("/quit", "never read"), terminal) == []


def test_ctrl_c_stops_the_answer_and_sigterm_the_program(recipe, monkeypatch, capsys):
    chat, asked = chat_of(recipe), []

    def ask(question, write):
        asked.append(question)
        signal.raise_signal(signal.SIGINT if len(asked) == 1 else signal.SIGTERM)

    monkeypatch.setattr(chat, "ask", ask)
    with interrupts.heard(), pytest.raises(KeyboardInterrupt):
        converse(chat, lines("one", "two", "three"), Terminal(False))
    assert asked == ["one", "two"]
    assert "stopped" in capsys.readouterr().out


def test_chat_for_scripts_and_a_run_that_never_learnt(trained, monkeypatch):
    named = command("chat", trained, "the", "cat", "--tokens", 6, "--temperature", 0, "--json")
    assert named.code == 0, named.err
    assert "has not learnt to answer" in named.err
    assert named.json["learnt"] is False
    assert [m["role"] for m in named.json["messages"]] == ["user", "assistant"] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO("the\n\ncat\n"))
    piped = command("chat", trained, "--tokens", 6, "--temperature", 0, "--json")
    assert piped.json["answers"] == named.json["answers"]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    refused(command("chat", trained), "no question", code=2)
    refused(command("chat", trained, "a", "--tokens", 32), "use 1 to 31", code=2)
    refused(command("chat", trained / "no", "a"), "does not exist", code=1)


def test_a_run_knows_its_template_wherever_it_goes(recipe, trained, tmp_path):
    from dataclasses import replace

    import transformers

    from maquette.adaptation.adapters.config import LoRAConfig
    from maquette.training.datasets.examples_config import ExamplesData
    from maquette.workshop.chat import learnt_template, template_for
    from maquette.workshop.merge import merge
    from maquette.workshop.train import train

    (tmp_path / "q.jsonl").write_text(
        "".join(f'{{"prompt": "{n}", "answer": "{n}"}}\n' for n in range(30)), encoding="utf-8"
    )
    build_examples(tmp_path / "c", [tmp_path / "q.jsonl"], byte_tokenizer(), template="chat")
    data = ExamplesData(corpus=str(tmp_path / "c"), sequence=32)
    tuned = tmp_path / "tuned"
    train(replace(recipe, data=data, start=str(trained), steps=2), tuned)
    assert learnt_template(trained) is None
    assert learnt_template(tuned) == QUESTIONS
    again = replace(recipe, start=str(tuned), steps=2)  # further on text: it still answers so
    train(again, tmp_path / "more")
    assert learnt_template(tmp_path / "more") == QUESTIONS
    low = replace(recipe, start=str(tuned), adapter=LoRAConfig(rank=2), steps=2)
    train(low, tmp_path / "low")
    merge(tmp_path / "low", tmp_path / "merged")  # which begins with no run
    assert learnt_template(tmp_path / "merged") == QUESTIONS
    assert (
        template_for(tuned, None) == QUESTIONS
        and template_for(tuned, "{prompt}{answer}!")[-1] == "!"
    )
    assert template_for(trained, None) == "{prompt}{answer}"
    assert command("export", "hf", tuned, tmp_path / "out").code == 0
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"},
                {"role": "user", "content": "3"}]  # fmt: skip
    text = reader.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    asked = Template(QUESTIONS).conversation([("1", "2")], "3", byte_tokenizer())
    assert reader(text, add_special_tokens=False)["input_ids"] == asked
    assert command("import", "hf", tmp_path / "out", tmp_path / "back").code == 0
    words = ("2", "5", "--tokens", 4, "--temperature", 0, "--weights", "fp32", "--json")
    answers = [command("chat", run, *words).json for run in (tuned, tmp_path / "back")]
    assert answers[0]["answers"] == answers[1]["answers"]
    assert [one["learnt"] for one in answers] == [True, True]


def test_what_learns_from_answers_reads_chat_templates(tmp_path):
    """Pairs, results and searched questions: an answer stands where the template puts it, with its end."""
    from maquette.adaptation.grpo import Results
    from maquette.training.datasets.preferences import Pairs
    from maquette.workshop.adapt_black_box import questions_of

    text = (
        "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + ';' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    lines = [{"prompt": f"q{i}", "chosen": f"Yes {i}", "rejected": "no"} for i in range(20)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tokenizer = byte_tokenizer()
    corpus = build_examples(tmp_path / "c", [path], tokenizer, template=text, heldout=0.2)
    example = next(iter(corpus.examples("train")))
    (tokens, counted), (worse, _) = Pairs(corpus, "train", 40).answers[0]
    assert tokenizer.decode(tokens[counted].tolist()[:-1]) == f"{example.answer};"
    assert tokenizer.decode(worse.tolist()[:-1]).endswith("a:no;")
    results = Results(corpus, "train", "")
    assert results.right(0, tokenizer.encode(f"{example.answer.lower()};"))
    assert not results.right(0, tokenizer.encode("no;"))
    (question,) = questions_of([example], template_of(text, tokenizer), tokenizer)
    assert tokenizer.decode(list(question.context)).endswith(f"u:{example.prompt};a:")
    ((*answer, end),) = question.answers
    assert tokenizer.decode(answer) == f"{example.answer};" and end == tokenizer.eos_token_id
