@0xd4a1b7c60f3e9582;
# The catalog: what administrators ask of it, and the directory that gateways are told.

using Common = import "common.capnp";

struct Quota {
  # What a tenant may use. 0 means no bound, of the weight excepted.

  weight @0 :Float64;
  # Its part of the devices' time at overload, against the weights of those who ask, too.

  requestsPerS @1 :Float64;

  hostBytes @2 :UInt64;
  # Of its models' images together.

  models @3 :UInt64;
}

struct TenantInfo {
  tenantId @0 :Common.TenantId;
  name @1 :Text;
  quota @2 :Quota;
  models @3 :UInt64;
  hostBytes @4 :UInt64;

  keys @5 :UInt64;
  # That open its door now.
}

struct KeyInfo {
  # A key, less its secret.

  keyId @0 :Text;
  tenant @1 :Text;
  label @2 :Text;

  createdMs @3 :Int64;
  # Wall clock.

  revokedMs @4 :Int64;
  # 0 while it opens its door.
}

enum CatalogVerb {
  # What may be asked; in brackets the members of the order that are read.

  unset @0;

  addTenant @1;
  # (tenant, quota)

  listTenants @2;

  setQuota @3;
  # (tenant, quota)

  addKey @4;
  # (tenant, label)

  rotateKey @5;
  # (keyId) A new key of the same tenant and label; the old one ends at once.

  revokeKey @6;
  # (keyId)

  listKeys @7;
  # (tenant)

  claimModel @8;
  # (model, tenant, hostBytes) Note whose a model is that is about to come; the default tenant's
  # where `tenant` is empty, unless it is claimed already.

  releaseModel @9;
  # (model) Give up a claim of what did not come.

  shareModel @10;
  # (model, tenant)

  unshareModel @11;
  # (model, tenant)

  pinModel @12;
  # (model)

  unpinModel @13;
  # (model)

  reread @14;
  # Between cells: another controller has changed what both read.
}

struct CatalogOrder {
  verb @0 :CatalogVerb;
  tenant @1 :Text;
  model @2 :Text;
  keyId @3 :Text;
  label @4 :Text;
  hostBytes @5 :UInt64;
  quota @6 :Quota;
}

struct CatalogAnswer {
  tenants @0 :List(TenantInfo);
  keys @1 :List(KeyInfo);

  newKey @2 :Text;
  # Shown this once: only its hash is kept.
}

# ======================================================================================
# What gateways are told

struct DirectoryTenant {
  tenantId @0 :Common.TenantId;

  requestsPerS @1 :Float64;
  # At this gateway; 0: no bound.
}

struct DirectoryKey {
  keyId @0 :Text;
  tenantId @1 :Common.TenantId;
  secretHash @2 :Data;
}

struct ModelAccess {
  # Who may see and call a model. One without an entry is the default tenant's.

  model @0 :Text;
  owner @1 :Common.TenantId;
  sharedWith @2 :List(Common.TenantId);
}

struct DirectoryChange {
  # Members apply in the order in which they stand here.

  whole @0 :Bool;
  # Forget what was told before.

  tenants @1 :List(DirectoryTenant);

  keysRevoked @2 :List(Text);
  # Sessions that these keys opened end.

  keysAdded @3 :List(DirectoryKey);
  models @4 :List(ModelAccess);
  modelsForgotten @5 :List(Text);
}
