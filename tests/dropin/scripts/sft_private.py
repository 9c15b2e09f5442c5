"""Fine-tune a language model with TRL's SFTTrainer."""

from datasets import load_dataset
from swingkd import RuleTagger, collator_of, distilling, prepare_rows
from swingkd.targets import Drop
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main(model_name, train_file, output_dir):
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name)
    rows = prepare_rows(load_dataset("text", data_files=train_file, split="train"), tokenizer, RuleTagger(), model)
    teacher = AutoModelForCausalLM.from_pretrained("teacher")
    args = SFTConfig(output_dir, max_steps=3, report_to=[], bf16=False, use_cpu=True, logging_steps=1, max_length=64)
    trainer = distilling(SFTTrainer, teacher, Drop())(model, args, collator_of(tokenizer), train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]
