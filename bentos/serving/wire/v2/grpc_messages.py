"""The messages of ``inference.GRPCInferenceService``, built from descriptors in code.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto, with
the parameter kinds that Triton added. No generated file ties a model's environment to one version of protobuf, and the
pool is our own, so that a client in the same process may register the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

__all__ = ["DecodeError", "message"]

PACKAGE = "inference"
# Message → field → number and type; "[]" repeated, "|" one of the choices, "{}" a map from texts.
_TENSOR = {"name": "1 string", "datatype": "2 string", "shape": "3 int64[]"}
_NAMED = {"name": "1 string", "version": "2 string"}
_BODY = {**_TENSOR, "parameters": "4 .InferParameter{}", "contents": "5 .InferTensorContents"}
_MESSAGES: dict[str, dict[str, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "1 bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "1 bool"},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": "1 bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAMED, "extensions": "3 string[]"},
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": {
        "name": "1 string",
        "versions": "2 string[]",
        "platform": "3 string",
        "inputs": "4 .ModelMetadataResponse.TensorMetadata[]",
        "outputs": "5 .ModelMetadataResponse.TensorMetadata[]",
    },
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": {
        "bool_param": "1 bool|",
        "int64_param": "2 int64|",
        "string_param": "3 string|",
        "double_param": "4 double|",
        "uint64_param": "5 uint64|",
    },
    "InferTensorContents": {
        "bool_contents": "1 bool[]",
        "int_contents": "2 int32[]",
        "int64_contents": "3 int64[]",
        "uint_contents": "4 uint32[]",
        "uint64_contents": "5 uint64[]",
        "fp32_contents": "6 float[]",
        "fp64_contents": "7 double[]",
        "bytes_contents": "8 bytes[]",
    },
    "ModelInferRequest": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 .InferParameter{}",
        "inputs": "5 .ModelInferRequest.InferInputTensor[]",
        "outputs": "6 .ModelInferRequest.InferRequestedOutputTensor[]",
        "raw_input_contents": "7 bytes[]",
    },
    "ModelInferRequest.InferInputTensor": _BODY,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": "1 string", "parameters": "2 .InferParameter{}"},
    "ModelInferResponse": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 .InferParameter{}",
        "outputs": "5 .ModelInferResponse.InferOutputTensor[]",
        "raw_output_contents": "6 bytes[]",
    },
    "ModelInferResponse.InferOutputTensor": _BODY,
}


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="shipway/open_inference_grpc.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for name, fields in _MESSAGES.items():
        outer, _, short = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=short)
        for field, text in fields.items():
            _add_field(made[name], name, field, text)
    return file


def _add_field(owner: DescriptorProto, path: str, name: str, text: str) -> None:
    number, _, kind = text.partition(" ")
    field = owner.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind.endswith(("[]", "{}")):
        field.label = FieldDescriptorProto.LABEL_REPEATED
    if kind.endswith("|"):
        if not owner.oneof_decl:
            owner.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    bare = kind.rstrip("[]{}|")
    if kind.endswith("{}"):
        entry = owner.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, f"{path}.{entry.name}", "key", "1 string")
        _add_field(entry, f"{path}.{entry.name}", "value", f"2 {bare}")
        bare = f".{path}.{entry.name}"
    if bare.startswith("."):
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}{bare}"
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{bare.upper()}")


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    make = getattr(message_factory, "GetMessageClass", None)  # protobuf 4.22 and later
    if make is None:
        make = message_factory.MessageFactory(pool).GetPrototype  # type: ignore[attr-defined] # stubs are of newer ones
    return {name: make(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES}


_CLASSES = _classes()


def message(name: str) -> Any:
    """The class of the message *name*, as ``ModelInferRequest``."""
    return _CLASSES[name]
