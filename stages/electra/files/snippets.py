"""Python for model cards: it prints an answer where the model's folder is the working one.

In those of fine-tuned models `inputs`, `max_length`, `stride` and `max_answer_length` are filled in.
"""

_LOAD = """from transformers import AutoTokenizer, {model_class}

name = "."  # this folder, or the model's name on the hub
tokenizer = AutoTokenizer.from_pretrained(name)
model = {model_class}.from_pretrained(name)
"""


def call(model_class: str) -> str:
    """Loads a model of a class of transformers and calls it once."""
    load = _LOAD.format(model_class=model_class)
    if model_class == "ElectraForMultipleChoice":
        return load  # its inputs have an axis more
    return f'{load}print(model(**tokenizer("a text", return_tensors="pt", truncation=True)))\n'


DETECT = (
    "import torch\n"
    + _LOAD.format(model_class="ElectraForPreTraining")
    + """inputs = tokenizer("The quick brown fox fake over the lazy dog", return_tensors="pt", truncation=True)
with torch.no_grad():
    replaced = torch.sigmoid(model(**inputs).logits[0])
for token, probability in zip(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]), replaced.tolist()):
    print(f"{probability:.2f} {token}")
"""
)

ENCODE = (
    "import torch\n"
    + _LOAD.format(model_class="ElectraModel")
    + """inputs = tokenizer("The quick brown fox jumps over the lazy dog", return_tensors="pt", truncation=True)
with torch.no_grad():
    print(model(**inputs).last_hidden_state)
"""
)

FILL = """from transformers import pipeline

fill = pipeline("fill-mask", model=".")  # this folder, or the model's name on the hub
for guess in fill("The quick brown fox [MASK] over the lazy dog."):
    print(f"{guess['score']:.3f} {guess['sequence']}")
"""

_CLASSIFY = """from transformers import pipeline

classify = pipeline("text-classification", model=".")  # this folder, or the model's name on the hub
print(classify({{inputs}}, truncation=True{options}))
"""
CLASSIFICATION = _CLASSIFY.format(options="")
MULTI_LABEL = _CLASSIFY.format(options=", top_k=None")
REGRESSION = _CLASSIFY.format(options=', function_to_apply="none"')

TAGGING = """from transformers import pipeline

tag = pipeline("token-classification", model=".", aggregation_strategy="first")  # this folder, or a name on the hub
for found in tag("The quick brown fox jumps over the lazy dog."):
    print(found["word"], found["entity_group"], round(float(found["score"]), 3))
"""

# transformers 5 has no pipeline for questions any more. A long context is read in windows that overlap.
QUESTION_ANSWERING = """import torch
from transformers import AutoTokenizer, ElectraForQuestionAnswering

name = "."  # this folder, or the model's name on the hub
tokenizer = AutoTokenizer.from_pretrained(name)
model = ElectraForQuestionAnswering.from_pretrained(name)
question, context = "Who jumps over the dog?", "The quick brown fox jumps over the lazy dog."
windows = tokenizer(
    question, context, truncation="only_second", max_length={max_length}, stride={stride}, padding=True,
    return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
)
places = windows.pop("offset_mapping").tolist()
windows.pop("overflow_to_sample_mapping")
with torch.no_grad():
    output = model(**windows)
best = (float("-inf"), "")
for row, offsets in enumerate(places):
    of_context = [place for place, text in enumerate(windows.sequence_ids(row)) if text == 1]
    for number, start in enumerate(of_context):
        for end in of_context[number : number + {max_answer_length}]:
            score = float(output.start_logits[row, start] + output.end_logits[row, end])
            best = max(best, (score, context[offsets[start][0] : offsets[end][1]]))
print(best[1])
"""

PREDICTOR = """from stages.tasks.predictor import Predictor  # of the project that trained the model

predictor = Predictor(".")  # this folder, or the model's name on the hub
print(predictor.answers([{"question": "Who jumps?", "context": "The quick brown fox jumps over the lazy dog."}]))
"""
