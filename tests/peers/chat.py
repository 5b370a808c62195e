"""References for chat templates: conversations as `transformers` renders them.

    python chat.py [--data FOLDER] [--out FOLDER]

Writes chat.json: SmolLM2's template from its GGUF file, and some of other families written for this purpose in their
manner, each with ten conversations and what `transformers` makes of them: the text, or null where the template refuses.
"""
import argparse
import json
import pathlib
from importlib.metadata import version

import gguf
import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

# Alternation, a system prompt that joins the first user turn, and stripping.
ALTERNATING = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set offset = 1 %}{% else %}{% set offset = 0 %}{% endif %}
{%- for message in messages[offset:] %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if loop.first and offset == 1 %}
        {%- set content = '<<SYS>>\\n' + messages[0].content.strip() + '\\n<</SYS>>\\n\\n' + message.content %}
    {%- else %}
        {%- set content = message.content %}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + content | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ content.strip() ~ eos_token }}
    {%- endif %}
{%- endfor %}
"""

# Blocks on lines of their own, a macro, a namespace, string methods, slices, filters, tests and JSON.
EVERYTHING = """{%- macro header(role) -%}
<|{{ role | upper }}|>
{%- endmacro %}
{% set ns = namespace(turns=0, last='') %}
{% for message in messages %}
    {% if message.role == 'user' %}
        {% set ns.turns = ns.turns + 1 %}
    {% endif %}
    {% set ns.last = message.content %}
    {{ header(message['role']) }}
    {% if message.content is string and message.content | length > 0 %}
{{ message.content.split('\\n')[0].rstrip() }}{{ ' (more)' if '\\n' in message.content else '' }}
    {% else %}
(empty)
    {% endif %}
    {% if message.content.startswith('{') %}
{{ message | tojson }}
{{ message | tojson(indent=2) }}
    {% endif %}
    {% if not loop.last %}---
    {% endif %}
{% endfor %}
{# what follows sums up #}
turns={{ ns.turns }} last={{ ns.last[:5] | tojson }} tools={{ tools is none }} {{ tools is defined }} {{ unknown is defined }}
{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages[-1].role | default('none') }} {{ messages[::-1][0].content | trim | lower | replace('a', 'A') }}
{% for word in ['stop', 'go', 'never'] %}{% if word == 'stop' %}{% continue %}{% endif %}{% if word == 'never' %}{% break %}{% endif %}{{ word }}{% endfor %}

{% if add_generation_prompt %}<|ASSISTANT|>
{% endif %}
"""


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


CONVERSATIONS = [
    talk(("user", "Hello!")),
    talk(("system", "You are terse."), ("user", "What is 2 + 2?")),
    talk(("user", "Hi"), ("assistant", "Hello. How can I help?"), ("user", "Tell me a joke.")),
    talk(("system", "  spaces around  "), ("user", "  and here \n"), ("assistant", "\n and here  "), ("user", "bye")),
    talk(("user", "")),
    talk(("user", "line one\nline two\n\nline four")),
    talk(("user", "<b>HTML</b> & 'quotes' \"double\" {{ braces }} {% tags %} <|im_end|>")),
    talk(("user", "naïve 你好 😀 e\u0301 \u00a0"), ("assistant", "日本語 עברית")),
    talk(("assistant", "I start."), ("user", "You may not.")),
    talk(("user", "{\"a\": [1, 2.5, null, true], \"b\": \"c\\\\d\\te\"}"), ("assistant", "A" * 300), ("user", "And\ttabs\r\n")),
]


def render(template, messages, prompt):
    try:
        texts, _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
        )
        return texts[0]
    except jinja2.exceptions.TemplateError:
        return None


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser()
    args.add_argument("--data", type=pathlib.Path, default=here / "target/test-data")
    args.add_argument("--out", type=pathlib.Path, default=here / "crates/regard-models/tests/data")
    args = args.parse_args()

    reader = gguf.GGUFReader(args.data / "SmolLM2-135M-Instruct.Q4_1.gguf")
    templates = {
        "smollm2": reader.fields["tokenizer.chat_template"].contents(),
        "alternating": ALTERNATING,
        "everything": EVERYTHING,
    }
    body = {
        "programs": {n: version(n) for n in ("transformers", "jinja2")},
        "conversations": CONVERSATIONS,
        "templates": {
            name: {
                "source": source,
                "closed": [render(source, c, False) for c in CONVERSATIONS],
                "open": [render(source, c, True) for c in CONVERSATIONS],
            }
            for name, source in templates.items()
        },
    }
    (args.out / "chat.json").write_text(json.dumps(body, ensure_ascii=False) + "\n")
