"""Chat templates of models on the hub that tests compare with."""

# Of Meta-Llama-3-8B-Instruct; its bos_token is written out, for our test tokenizers have none
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = '<|begin_of_text|>' + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# Of HuggingFaceTB/SmolLM2-135M-Instruct (Apache 2.0)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The rest are written for the tests, in the styles of the models that they are named after.
LLAMA2 = (
    "{%- set first = messages[0] if messages[0].role == 'system' else false -%}"
    "{%- for m in (messages[1:] if first else messages) -%}"
    "{%- set text = m.content | trim -%}"
    "{%- if first and loop.first -%}"
    "{%- set text = '<<SYS>>\n' + first.content + '\n<</SYS>>\n\n' + text -%}{%- endif -%}"
    "{%- if m.role == 'user' -%}{{- bos_token + '[INST] ' + text + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + text + ' ' + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)
MISTRAL = (
    "{{- bos_token -}}"
    "{%- for m in messages -%}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles must alternate') -}}"
    "{%- endif -%}"
    "{%- if m.role == 'user' -%}{{- '[INST] ' + m.content + '[/INST]' -}}"
    "{%- else -%}{{- ' ' + m.content + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)
GEMMA = (
    "{{- bos_token -}}"
    "{%- if messages[0].role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
    "{%- for m in messages -%}"
    "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + "
    "'<end_of_turn>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
PHI = (
    "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' -}}{%- endfor -%}"
    "{{- '<|assistant|>\n' if add_generation_prompt else eos_token -}}"
)
ZEPHYR = (
    "{% for m in messages %}\n{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=0) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}"
    "{%- set text, thought = m.content, '' -%}"
    "{%- if m.role == 'assistant' and '</think>' in text -%}"
    "{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') -%}"
    "{%- set text = text.split('</think>')[-1].lstrip('\n') -%}"
    "{%- endif -%}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last -%}"
    "{%- set text = '<think>\n' + thought + '\n</think>\n\n' + text -%}"
    "{%- endif -%}"
    "{{- '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
SMOLVLM = (  # takes lists only, and puts a space before a text alone
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    "{% for item in m.content %}{{ item.text if item.type == 'text' else '<image>' }}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
LLAVA = (  # images before all text; generation markers; no token ends an answer
    "{% for m in messages %}{{ m.role.upper() + ': ' }}"
    "{% for item in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for item in m.content | selectattr('type', 'equalto', 'text') %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ item.text + ' ' }}{% endgeneration %}{% else %}{{ item.text + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
MARKED = (  # generation markers around answers with their end
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONEVISION = (  # markers that begin with the header's newline and leave out the end
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' }}"
    "{% for item in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for item in m.content | selectattr('type', 'equalto', 'text') %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ '\n' + item.text }}{% endgeneration %}{% else %}{{ '\n' + item.text }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
