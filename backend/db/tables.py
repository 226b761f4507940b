"""Every table, by room. The only ORM classes; docs/schema.md is generated from them."""

from backend.db.base import Table
from backend.db.tables_battles import AnswerRating, Battle, Campaign, CampaignPrompt, Completion, Contestant, Rater, Vote
from backend.db.tables_boards import ImportedEvaluation, PackedItems, RunSuite, Suite, SuiteResult
from backend.db.tables_build import Analysis, Architecture, Checkpoint, Dataset, DatasetVersion, Tokenizer
from backend.db.tables_decisions import Alias, FrozenBoard, Promotion, RaterExclusion
from backend.db.tables_evaluate import EvaluatedEndpoint, Evaluation, EvaluationItem, EvaluationTask, JudgedItem, Score
from backend.db.tables_gates import Gate, GateResult, RequiredGate
from backend.db.tables_jobs import Job, LogLine, Measurement, MetricBlock, MetricName, MetricPoint, Run, RunGroup, Sample, Slot, Worker
from backend.db.tables_monitoring import Alert, DeviceUse, Feedback, GaugeRollup, LoadTest, LoggedRequest, RequestLogPolicy, TrafficRollup
from backend.db.tables_people import ApiKey, User
from backend.db.tables_serve import (
    Conversation,
    ConversationShare,
    Deployment,
    Endpoint,
    Message,
    Preset,
    Replica,
    ReplicaFailure,
    Usage,
)

__all__ = [
    "Alert",
    "Alias",
    "Analysis",
    "AnswerRating",
    "ApiKey",
    "Architecture",
    "Battle",
    "Campaign",
    "CampaignPrompt",
    "Checkpoint",
    "Completion",
    "Contestant",
    "Conversation",
    "ConversationShare",
    "Dataset",
    "DatasetVersion",
    "Deployment",
    "DeviceUse",
    "Endpoint",
    "EvaluatedEndpoint",
    "Evaluation",
    "EvaluationItem",
    "EvaluationTask",
    "Feedback",
    "FrozenBoard",
    "Gate",
    "GateResult",
    "GaugeRollup",
    "ImportedEvaluation",
    "Job",
    "JudgedItem",
    "LoadTest",
    "LogLine",
    "LoggedRequest",
    "Measurement",
    "Message",
    "MetricBlock",
    "MetricName",
    "MetricPoint",
    "PackedItems",
    "Preset",
    "Promotion",
    "Rater",
    "RaterExclusion",
    "Replica",
    "ReplicaFailure",
    "RequestLogPolicy",
    "RequiredGate",
    "Run",
    "RunGroup",
    "RunSuite",
    "Sample",
    "Score",
    "Slot",
    "Suite",
    "SuiteResult",
    "Table",
    "Tokenizer",
    "TrafficRollup",
    "Usage",
    "User",
    "Vote",
    "Worker",
]
