-- Health of an SLMModel, a QuantJob or an InferenceService for Argo CD, from the conditions in its status.
-- One script for all three: they follow the same convention (Ready, Reconciling, Stalled).
-- argocd-cm.yaml beside this file holds it for each kind.

local health = {}
local status = obj.status or {}

-- A status of an earlier spec says nothing about this one.
if status.observedGeneration ~= obj.metadata.generation then
  health.status = "Progressing"
  health.message = "The operator has not looked at this version yet."
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

local ready = conditions["Ready"]
if ready == nil then
  health.status = "Progressing"
  health.message = "The operator has not said yet whether this is ready."
  return health
end

health.message = ready.message
if holds("Stalled") then
  health.status = "Degraded"
elseif holds("Ready") then
  health.status = "Healthy"
elseif holds("Reconciling") then
  health.status = "Progressing"
elseif ready.reason == "Stopped" then
  -- Zero replicas are what the spec asks for: as healthy as a Deployment of none.
  health.status = "Healthy"
else
  -- Nothing goes on and nothing is wrong: spec.suspend is set.
  health.status = "Suspended"
end
return health
