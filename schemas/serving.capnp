@0x90c1a8bfa067f102;
# What a client sees of cw: the door, and behind it the tenant's or the administrator's own
# capability. What a client may do is what it holds; there is no "user" argument anywhere.

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

  modelStatus @2 (name :Text) -> (status :Common.ModelStatus);
  # Raises UnknownModel.

  status @3 () -> (status :Common.ClusterStatus);
  # What the whole cluster looks like now.
}

interface Admin @0xdf8a2c430bebd230 {
  # What an administrator may do beyond a tenant.

  beginUpload @0 () -> (upload :Upload);
  # Start to add a model. Commit or discard it; one that is neither when the connection ends is
  # discarded.

  allowProgram @1 (programSha256 :Text) -> ();
  # Put a program on the allow-list: executors will run it as code, with their own rights.

  removeModel @2 (name :Text) -> ();
  # Remove a model. Requests that were promised are still answered. Raises UnknownModel.
}

interface Upload @0xbe2f861da6f48a6b {
  # One model's archive on its way into the store.

  write @0 (file :Text, data :Data) -> ();
  # Append to one of the archive's files. Wait for each answer before the next: the pieces of one
  # file are put together in the order of the calls. Raises ArchiveInvalid.

  commit @1 () -> (spec :Common.ModelSpec);
  # Verify the archive, put it into the store and register it; `Tenant.modelStatus` shows how far
  # that has come. Raises ArchiveInvalid, ManifestInvalid, ModelConflict or ProgramNotAllowed.

  discard @2 () -> ();
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
}
