"""DetrTrainer: `transformers.Trainer` with DETR's batches, optimizer, evaluation and checkpoints."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
import transformers
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.coco_types import CocoDataset
from transformers_detr.evaluation.distributed import gather_predictions, own_share
from transformers_detr.evaluation.predict import detections, plan_batches, predict
from transformers_detr.evaluation.predictions import ImagePrediction
from transformers_detr.evaluation.segmentation_predictions import segmentations
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.training.anchored_start import start_anchored
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.augmentation import augmentations
from transformers_detr.training.checkpointing import (
    atomic_checkpoint,
    load_weights,
    remove_old_checkpoints,
    save_plain_model,
    save_weights,
)
from transformers_detr.training.dataset import DetrCollator, TrainingDataset
from transformers_detr.training.lora import add_lora
from transformers_detr.training.model_surgery import freeze, train_whole_backbone
from transformers_detr.training.sampler import AspectRatioBatchSampler
from transformers_detr.training.training_aids import TrainingAids, add_training_aids

logger = logging.getLogger(__name__)


class DetrTrainer(transformers.Trainer):
    """Train DETR on a labeled dataset, with masks where the model has a mask head.

    Checkpoints hold the plain model to use (with averaged weights, if weights are averaged) and the weights in
    training; a checkpoint folder appears only when it is complete.

    Where masks are trained, the mask AP selects the best checkpoint, since the box AP may not change at all.

    Args:
        model: The model; prepared for training in place.
        args: The arguments.
        dataset: Dataset with the splits "train" and "val".
        processor: Prepares images for evaluation; saved with the model.
        **kwargs: Further arguments of `transformers.Trainer`, such as `callbacks`.

    Raises:
        ValueError: The arguments do not fit the model.
    """

    args: DetrTrainingArguments
    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        model: Any,
        args: DetrTrainingArguments,
        dataset: DetectionDataset,
        processor: DetrImageProcessor,
        **kwargs: Any,
    ):
        with_masks = isinstance(model, DetrForSegmentation)
        if args.masks and not with_masks:
            raise ValueError(
                f"masks: {type(model).__name__} has no mask head; train with masks=True (--masks) to add one"
            )
        if with_masks and args.metric_for_best_model == "eval_AP":
            args = copy.copy(args)
            args.metric_for_best_model = "eval_mask_AP"
        model = prepare_model(model, args)
        super().__init__(
            model=model,
            args=args,
            train_dataset=training_dataset(dataset, args, with_masks, processor.num_channels),
            eval_dataset=dataset.split("val"),
            data_collator=DetrCollator(processor.image_mean, processor.image_std),
            processing_class=processor,
            **kwargs,
        )
        self.dataset = dataset
        self.with_masks = with_masks
        if args.ema_decay and self._weights_are_sharded:
            raise ValueError("ema_decay must be 0 with FSDP or DeepSpeed: sharded weights cannot be averaged")
        self.ema = ModelEmaV3(self.model, decay=args.ema_decay, use_warmup=True) if args.ema_decay else None
        self.sampler: AspectRatioBatchSampler | None = None
        self.skipped_steps = 0
        self._staging: Path | None = None
        self._terms: dict[str, Tensor] = {}
        self._terms_count = 0
        self.add_callback(_StepCallback(self))
        if args.early_stopping_patience is not None:
            self.add_callback(transformers.EarlyStoppingCallback(args.early_stopping_patience))

    @property
    def model_to_use(self) -> Any:
        """Return the model to evaluate and save: the average, if weights are averaged."""
        return self.model if self.ema is None else self.ema.module

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process; they depend on seed and epoch alone."""
        args = self.args
        self.sampler = AspectRatioBatchSampler(
            [record.height / record.width for record in self.train_dataset.records],
            args.per_device_train_batch_size,
            args.edges,
            args.seed if args.data_seed is None else args.data_seed,
            rank=args.process_index,
            world=args.world_size,
        )
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer of the arguments, with a separate learning rate for the backbone."""
        if self.optimizer is None:
            groups = parameter_groups(model or self.model, self.args.learning_rate, self.args.backbone_lr_factor)
            optimizer, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer(groups, **{**settings, "weight_decay": self.args.weight_decay})
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule of the arguments; with `lr_drop` or `lr_gamma` one of steps."""
        args = self.args
        if (args.lr_drop is None and args.lr_gamma is None) or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = args.get_warmup_steps(num_training_steps)
        if args.lr_gamma is None:
            length, gamma, last = cast(float, args.lr_drop) * num_training_steps, 0.1, 1
        else:
            images_per_step = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
            length, gamma = math.ceil(len(cast(TrainingDataset, self.train_dataset)) / images_per_step), args.lr_gamma
            last = num_training_steps
        factor = partial(_step_factor, warmup=warmup, length=length, gamma=gamma, last=last)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the loss; keep its terms for the log."""
        outputs = model(**inputs)
        for name, value in outputs.loss_dict.items():
            if not name[-1].isdigit():  # the last layer's
                self._terms[name] = self._terms.get(name, 0) + value.detach()
        self._terms_count += 1
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean of each loss term since the last log."""
        if "loss" in logs and self._terms_count:
            logs |= {name: float(value) / self._terms_count for name, value in self._terms.items()}
            logs |= {"skipped_steps": self.skipped_steps} if self.skipped_steps else {}
            self._terms, self._terms_count = {}, 0
        super().log(logs, *args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return COCO's AP of the validation split, or of the split that `eval_dataset` names.

        Predictions leave the device batch by batch, so memory does not grow with the split.
        """
        split = eval_dataset if isinstance(eval_dataset, str) else "val"
        truth = cast(CocoDataset, self.dataset.to_coco(split))
        found = gather_predictions(self._predictions(split))
        metrics = {
            f"{metric_key_prefix}_{name}": value for name, value in score_detections(truth, found).summary.items()
        }
        if self.with_masks:
            for name, value in score_detections(truth, found, "segm").summary.items():
                metrics[f"{metric_key_prefix}_mask_{name}"] = value
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _predictions(self, split: str) -> Iterator[ImagePrediction]:
        """Yield the predictions of a split that fall to this process."""
        model = self.model_to_use.eval()
        batches = plan_batches(
            self.dataset.split(split), self.args.per_device_eval_batch_size, not model.supports_exact_padding
        )
        stuff = model.config.label_ids_to_fuse or ()
        with TemporaryDirectory() as folder:
            masks = partial(segmentations, folder=Path(folder), stuff=stuff)
            collect = masks if self.with_masks else detections
            for predictions in predict(model, self.processing_class, own_share(batches), collect=collect):
                yield from predictions

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint atomically."""
        final = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        main, state = self.args.should_save, self.state
        with atomic_checkpoint(final, main, self.accelerator.wait_for_everyone) as staging, self._without_push():
            self._staging = staging.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            if state.best_global_step == state.global_step:
                state.best_model_checkpoint = str(final)  # the Trainer noted the staging name
            if main:
                if not self._weights_are_sharded:
                    save_weights(self._in_training(), staging)
                state.save_to_json(str(staging / "trainer_state.json"))
        if main:
            remove_old_checkpoints(final.parent, self.args.save_total_limit, state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    @contextmanager
    def _without_push(self) -> Iterator[None]:
        """Keep the Trainer from uploading a checkpoint that is still being written."""
        wanted, self.args.push_to_hub = self.args.push_to_hub, False
        try:
            yield
        finally:
            self.args.push_to_hub = wanted

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the plain model and the processor."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)  # type: ignore[arg-type]  # checked by the arguments
            save_plain_model(self.model_to_use, folder, state_dict if self.ema is None else None)
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights in training."""
        if self._weights_are_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self._in_training(), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint."""
        if self._weights_are_sharded:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    @property
    def _weights_are_sharded(self) -> bool:
        """True if each process holds only a part of the weights; `transformers.Trainer` then saves and loads them."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _in_training(self) -> dict[str, nn.Module]:
        return {"model": self.model} if self.ema is None else {"model": self.model, "average": self.ema.module}


class _StepCallback(transformers.TrainerCallback):
    """Set the sampler's epoch, check gradients, average weights."""

    def __init__(self, trainer: DetrTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the sampler's epoch."""
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Train encoded tokens alone for the first `tokens_first` of the steps."""
        if args.tokens_first:
            aided = next(module for module in self.trainer.model.modules() if isinstance(module, TrainingAids))
            aided.tokens_only = state.global_step < args.tokens_first * state.max_steps

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Skip the step in every process if a gradient is NaN or infinite, and log a warning."""
        trainer = self.trainer
        if trainer.accelerator.scaler is not None:
            return  # in float16 such steps are normal, and the Trainer skips them
        gradients = [value.grad for value in trainer.model.parameters() if value.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm.full_tensor() if isinstance(norm, DTensor) else norm):
            trainer.model.zero_grad(set_to_none=True)
            trainer.skipped_steps += 1
            logger.warning(
                "Step %d is skipped: its gradients are not finite (%d skipped so far).",
                state.global_step + 1,
                trainer.skipped_steps,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update the averaged weights."""
        if self.trainer.ema is not None:
            self.trainer.ema.update(self.trainer.model, step=state.global_step)


def training_dataset(
    dataset: DetectionDataset, args: DetrTrainingArguments, with_masks: bool, num_channels: int
) -> TrainingDataset:
    """Return the training split with the augmentation of the arguments, for a model of `num_channels` channels."""
    transforms = augmentations(args.augmentation, args.edges, args.longest_edge)
    return TrainingDataset(dataset.split("train"), transforms, with_masks, num_channels)


def prepare_model(model: Any, args: DetrTrainingArguments) -> Any:
    """Prepare a model for training with the arguments, in place; with LoRA, return peft's wrapper of it."""
    _set_class_weights(getattr(model, "detr", model).config, args)
    if args.train_whole_backbone:
        train_whole_backbone(model, args.train_batch_norm)
    if args.anchored_start:
        start_anchored(model)
    freeze(model, args.freeze)
    if args.bf16 and args.device.type == "cpu":
        model.set_attn_implementation("eager")  # the backward pass of fused attention is several times slower there
    if args.query_groups > 1 or args.token_weight > 0:
        if not isinstance(model, DetrForObjectDetection):
            raise ValueError(f"query_groups and token_weight are for detectors, got {type(model).__name__}")
        add_training_aids(model, args.query_groups, args.token_weight)
    return add_lora(model, args.lora_rank) if args.lora_rank else model


def _set_class_weights(config: DetrConfig, args: DetrTrainingArguments) -> None:
    """Write the weights of the classification loss into a model's configuration."""
    if args.no_object_weight is not None:
        config.eos_coefficient = args.no_object_weight
    if args.class_weights is None:
        return
    weights = [1.0] * config.num_labels
    for name, weight in cast(dict[str, float], args.class_weights).items():  # `__post_init__` has read it
        by_name: Any = config.label2id
        label: int = by_name.get(name, int(name) if name.isdecimal() else -1)
        if label not in range(config.num_labels):
            known = ", ".join(config.id2label.values())
            raise ValueError(f"class_weights: {name!r} is neither a class ({known}) nor a class id")
        weights[label] = weight
    config.class_weights = weights


def parameter_groups(model: nn.Module, learning_rate: float, backbone_factor: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups; the backbone has a separate learning rate."""
    backbone: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (backbone if ".conv_encoder." in name else rest).append(parameter)
    groups = [{"params": rest, "lr": learning_rate}, {"params": backbone, "lr": learning_rate * backbone_factor}]
    return [group for group in groups if group["params"]]


def _step_factor(step: int, warmup: int, length: float, gamma: float, last: int) -> float:
    """Return the factor of the learning rate: after each `length` of steps, at most `last` times, `gamma` again."""
    if step < warmup:
        return (step + 1) / warmup
    return gamma ** min(int(step / length), last)
