-- Orthanc sends the original images of each stable study to a DICOM node of invad-med: docs/orthanc.md.
--
-- Events say only when to look. What was sent is kept in the study's metadata, so that results and duplicates start no
-- round, and a study that could not be sent, or was interrupted by a restart, is sent later.

local MODALITY = 'invad'    -- in DicomModalities
local SENT = 'InvadSent'    -- in UserMetadata
local AT_A_TIME = 2         -- studies that are being sent
local LOOKS = 50            -- studies that are looked at in one go
local PAUSE, LONGEST = 5, 300   -- seconds until a study is tried again: the first time, and at most
local RECENT = 7 * 24 * 3600    -- seconds; studies changed since are looked at when Orthanc starts

local due = {}       -- by study: when it is looked at
local failures = {}  -- by study: one after the other
local flying = {}    -- by study: its job, and what that sends

local function get(uri)
  local answer = RestApiGet(uri)
  return answer and answer ~= '' and ParseJson(answer) or nil
end

-- Whether a series is a result. The node passes over results too: this spares the way.
local function isResult(series)
  if string.lower(series['MainDicomTags']['Manufacturer'] or '') == 'invad-med' then
    return true
  end
  local tags = get('/instances/' .. series['Instances'][1] .. '/simplified-tags') or {}
  return string.find(tags['ImageType'] or '', 'INVAD_OVERLAY', 1, true) ~= nil
end

-- The original instances of a study, and a text that changes with them.
local function originals(study)
  local instances, state = {}, {}
  for _, series in ipairs(get('/studies/' .. study .. '/series') or {}) do
    if not isResult(series) then
      for _, instance in ipairs(series['Instances']) do
        table.insert(instances, instance)
      end
      table.insert(state, series['ID'] .. ' ' .. #series['Instances'] .. ' ' .. series['LastUpdate'])
    end
  end
  table.sort(state)
  return instances, table.concat(state, '\n')
end

local function later(study)
  failures[study] = (failures[study] or 0) + 1
  local pause = math.min(LONGEST, PAUSE * 2 ^ (failures[study] - 1))
  due[study] = os.time() + pause
  print('study ' .. study .. ' not sent to ' .. MODALITY .. ', again in ' .. pause .. ' s')
end

-- Begin to send a study, unless that was done; return whether it is being sent.
local function send(study)
  local instances, state = originals(study)
  if #instances == 0 or (get('/studies/' .. study .. '/metadata?expand') or {})[SENT] == state then
    return false
  end
  local job = RestApiPost('/modalities/' .. MODALITY .. '/store',
    DumpJson({ Resources = instances, Asynchronous = true, Permissive = false }))
  if not job then
    later(study)
    return false
  end
  flying[study] = { job = ParseJson(job)['ID'], state = state }
  return true
end

-- Note what has arrived, and send what is due.
local function work()
  local count, now, ready = 0, os.time(), {}
  for study, flight in pairs(flying) do
    local state = (get('/jobs/' .. flight.job) or {})['State']
    if state == 'Success' then
      RestApiPut('/studies/' .. study .. '/metadata/' .. SENT, flight.state)
      flying[study], failures[study] = nil, nil
    elseif state == 'Failure' or state == nil then
      flying[study] = nil
      later(study)
    else
      count = count + 1
    end
  end
  for study, at in pairs(due) do
    if at <= now and not flying[study] and #ready < LOOKS then
      table.insert(ready, study)
    end
  end
  for _, study in ipairs(ready) do
    if count < AT_A_TIME then
      due[study] = nil
      count = count + (send(study) and 1 or 0)
    end
  end
end

function OnStableStudy(study, tags, metadata)
  due[study] = os.time()
  work()
end

function OnJobSuccess(job)
  work()
end

function OnJobFailure(job)
  work()
end

-- The clock of newer versions (LuaHeartBeatPeriod); of others, each HTTP request is one.
function OnHeartBeat()
  work()
end

function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  work()
  return true
end

-- Stable studies are announced by the process that received them alone.
function Initialize()
  local since, now = 0, os.time()
  local oldest = os.date('!%Y%m%dT%H%M%S', now - RECENT)
  repeat
    local page = get('/studies?expand&limit=1000&since=' .. since) or {}
    for _, study in ipairs(page) do
      if (study['LastUpdate'] or oldest) >= oldest then
        due[study['ID']] = now + PAUSE
      end
    end
    since = since + 1000
  until #page == 0
end
