"""Chat templates as the families' publishers wrote them, shortened to what a plain chat uses."""

CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|im_start|>assistant\\n' }}{% endif %}"""
QWEN = """\
{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + \
'<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. \
You are a helpful assistant.<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}\
{%- if message.role == 'user' or message.role == 'assistant' %}{{- '<|im_start|>' + message.role + \
'\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}\
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
GEMMA_3 = """\
{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}\
{%- set prefix = messages[0]['content'] + '\\n\\n' -%}{%- set turns = messages[1:] -%}{%- else -%}\
{%- set prefix = '' -%}{%- set turns = messages -%}{%- endif -%}{%- for message in turns -%}\
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\
{{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}\
{{- message['content'] | trim }}{{ '<end_of_turn>\\n' }}{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
MISTRAL = """\
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}\
{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}{{- bos_token }}\
{%- for message in turns %}{%- if message['role'] == 'user' %}\
{%- if loop.last and system is defined %}\
{{- '[INST] ' + system + '\\n\\n' + message['content'] + '[/INST]' }}{%- else %}\
{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}\
{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] | trim + eos_token }}\
{%- endif %}{%- endfor %}"""
PHI = """\
{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + \
'<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}\
{{ eos_token }}{% endif %}"""
ALL = {
    "chatml": CHATML,
    "qwen": QWEN,
    "gemma": GEMMA,
    "gemma 3": GEMMA_3,
    "mistral": MISTRAL,
    "phi": PHI,
}
NUMBERED = """\
{% for message in messages %}{{ loop.index ~ message['content'] ~ ';' }}{% endfor %}"""
"""A template that puts more than texts around messages."""
