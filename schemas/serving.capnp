@0x90c1a8bfa067f102;
# What a client sees of cw: the door, and behind it the tenant's or the administrator's own
# capability. What a client may do is what it holds; there is no "user" argument anywhere.

using Catalog = import "catalog.capnp";
using Common = import "common.capnp";

interface Serving @0xf2b281eb1fa22086 {
  # The bootstrap capability of a gateway. It only authenticates.

  login @0 (key :Text, protocolVersion :UInt16) -> (tenant :Tenant, protocolVersion :UInt16);
  # Enter as a tenant. `protocolVersion` is the highest that the client speaks; what comes back is
  # the one that both will speak, never higher than that. The empty key is the default tenant's, on
  # a cluster that has no tenants. Raises AccessDenied when the key opens nothing, and
  # ProtocolViolation when the gateway no longer speaks a version that old.

  admin @1 (key :Text, protocolVersion :UInt16) -> (admin :Admin, protocolVersion :UInt16);
  # Enter as the administrator; the rest as with `login`.
}

interface Tenant @0xdd73005f6205d325 {
  # What a tenant may do. Dies with the connection.

  infer @0 (call :InferCall) -> (answer :Answer);
  # Answer one request, exactly once: in time, or with a refusal at once. Bad input is a `failure`
  # inside the answer. Cancelling this call tells the cluster that nobody waits any more.

  models @1 () -> (models :List(Common.ModelStatus));
  # List the models that this tenant may ask for.

  modelStatus @2 (name :Text, version :UInt32) -> (status :Common.ModelStatus);
  # Of the current version if `version` is 0. Raises UnknownModel or UnknownVersion.

  status @3 () -> (status :Common.ClusterStatus);
  # What the whole cluster looks like now.
}

interface Admin @0xdf8a2c430bebd230 {
  # What an administrator may do beyond a tenant.

  beginUpload @0 (offer :UploadOffer) -> (upload :Upload, token :Text);
  # Start to add a model, or go on: the same offer gives the same upload, as far as it has come. It
  # outlives the connection and the gateway; one that is neither committed nor discarded is swept
  # away some time after its last byte. Raises ArchiveInvalid, OutboxFull or StoreFull.

  allowProgram @1 (programSha256 :Text) -> ();
  # Put a program on the allow-list: executors will run it as code, with their own rights.

  removeModel @2 (name :Text) -> ();
  # Remove a model. Requests that were promised are still answered. Raises UnknownModel.

  resumeUpload @3 (token :Text) -> (upload :Upload);
  # Go on with an upload that this caller began. Raises UnknownUpload.

  routeModel @4 (order :Common.RouteOrder) -> (versions :List(Common.VersionStatus));
  # Change what a name stands for. Raises UnknownModel, UnknownVersion or RequestInvalid.

  versions @5 (name :Text) -> (versions :List(Common.VersionStatus));
  # Describe a name's versions, the oldest first. Raises UnknownModel.

  catalog @6 (order :Catalog.CatalogOrder) -> (answer :Catalog.CatalogAnswer);
  # Tenants, their keys and quotas, and whose each model is; the errors are those of
  # `GatewaySession.catalog`.
}

struct UploadOffer {
  # What is going to be sent.

  manifestSha256 @0 :Text;
  # Of the file model.toml, in lowercase hexadecimal digits.

  sizes @1 :List(FileSize);
}

struct FileSize {
  file @0 :Text;
  bytes @1 :UInt64;
}

interface Upload @0xbe2f861da6f48a6b {
  # One model's archive on its way into the store.

  write @0 (file :Text, data :Data, offset :UInt64, crc32 :UInt32) -> ();
  # Put a chunk behind what is there of one of the archive's files; a chunk that is there already
  # changes nothing. Raises ArchiveInvalid, ChunkDamaged, ChunkOutOfOrder, UnknownUpload, StoreFull.

  commit @1 (hold :Bool) -> (spec :Common.ModelSpec);
  # Verify the archive, put it into the store and register it. A name's first version is current at
  # once, a later one when it is ready; with `hold` it stays beside until it is routed to. `Tenant.modelStatus` shows how far
  # that has come. Raises ArchiveInvalid, ManifestInvalid, ModelConflict or ProgramNotAllowed.

  discard @2 () -> ();

  progress @3 () -> (written :List(FileSize));
  # How far it has come.
}

struct Tensor {
  # A named array as a client sends it; not yet checked against any model.

  name @0 :Text;

  datatype @1 :Text;
  # An Open Inference Protocol name (`FP32`). Text: what is no such name is answered with a
  # `failure` that repeats it, not with the end of the connection.

  shape @2 :List(Int64);

  data @3 :Data;
  # C-contiguous little-endian elements.
}

struct InferCall {
  model @0 :Text;

  inputs @1 :List(Tensor);

  sloNs @2 :Common.Duration;
  # From the gateway's receipt of the whole call. The client has already taken off its own share,
  # so that no two clocks are compared.

  version @4 :UInt32;
  # Which version of the model; 0: as its administrator shares requests out among them.

  isBestEffort @3 :Bool;
  # There is no SLO, and `sloNs` means nothing: run it in time that no request with an SLO wants,
  # whenever that is. It is refused `queueFull` when too many wait.
}

struct Timing {
  # Where a request's time went.

  totalNs @0 :Common.Duration;
  # From the gateway's receipt of the whole request to the handing over of the answer.

  predictedNs @1 :Common.Duration;
  # What the promise said `totalNs` would be at most; 0 when none was made.

  deviceNs @2 :Common.Duration;
  # On the device, of the batch that carried it.

  laneBusyNs @3 :Common.Duration;
  # In which its lane ran other actions while it waited.

  batchSize @4 :UInt32;
  # Requests in the batch that carried it.

  assignedNs @5 :Common.Duration;
  # From the gateway's receipt to the controller's word on which batch carries it.

  executorNs @6 :Common.Duration;
  # In the executor: from the receipt of the inputs to the handing over of the outputs.

  waitedNs @7 :Common.Duration;
  # The first part of that, until the batch started on the device.
}

struct Answer {
  timing @0 :Timing;

  promised @1 :Bool;
  # Whether it had been promised. With anything but outputs in time: a broken promise.

  union {
    unset @2 :Void;

    outputs @3 :List(Data);
    # In the order of the model's outputs, C-contiguous little-endian elements.

    refusal @4 :Common.Refusal;

    failure @5 :Common.Failure;
  }

  version @6 :UInt32;
  # Of the model that it was asked of; 0 when it came to none.
}
