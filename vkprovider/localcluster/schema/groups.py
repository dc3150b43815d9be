"""Fields of the other messages; see ``vkprovider.localcluster.schema`` for the notation. Made by tests/unit/localcluster/make_schema.py."""

from __future__ import annotations

META = """
Condition: type=1+s status=2+s observedGeneration=3i lastTransitionTime=4+t reason=5+s message=6+s
DeleteOptions: gracePeriodSeconds=1*i preconditions=2*Preconditions orphanDependents=3*b propagationPolicy=4*s
  dryRun=5[]s ignoreStoreReadErrorWithClusterBreakingPotential=6*b
FieldSelectorRequirement: key=1+s operator=2+s values=3[]s
LabelSelector: matchLabels=1{}s matchExpressions=2[]LabelSelectorRequirement
LabelSelectorRequirement: key=1+s operator=2+s values=3[]s
ListMeta: selfLink=1s resourceVersion=2s continue=3s remainingItemCount=4*i shardInfo=5*ShardInfo
ManagedFieldsEntry: manager=1s operation=2s apiVersion=3s time=4*t fieldsType=6s fieldsV1=7*f subresource=8s
ObjectMeta: name=1s generateName=2s namespace=3s selfLink=4s uid=5s resourceVersion=6s generation=7i
  creationTimestamp=8t deletionTimestamp=9*t deletionGracePeriodSeconds=10*i labels=11{}s annotations=12{}s
  ownerReferences=13[]OwnerReference@uid%uid finalizers=14[]s@%set managedFields=17[]ManagedFieldsEntry
OwnerReference: apiVersion=5+s kind=1+s name=3+s uid=4+s controller=6*b blockOwnerDeletion=7*b
Preconditions: uid=1*s resourceVersion=2*s
ShardInfo: selector=1+s
Status: metadata=1+ListMeta status=2s message=3s reason=4s details=5*StatusDetails code=6i
StatusCause: reason=1s message=2s field=3s
StatusDetails: name=1s group=2s kind=3s uid=6s causes=4[]StatusCause retryAfterSeconds=5i
"""

APPS = """
ControllerRevision: metadata=1+meta.ObjectMeta data=2r revision=3+i
DaemonSet: metadata=1+meta.ObjectMeta spec=2+DaemonSetSpec status=3+DaemonSetStatus
DaemonSetCondition: type=1+s status=2+s lastTransitionTime=3+t reason=4s message=5s
DaemonSetSpec: selector=1+*meta.LabelSelector template=2+core.PodTemplateSpec updateStrategy=3+DaemonSetUpdateStrategy
  minReadySeconds=4i revisionHistoryLimit=6*i
DaemonSetStatus: currentNumberScheduled=1+i numberMisscheduled=2+i desiredNumberScheduled=3+i numberReady=4+i
  observedGeneration=5i updatedNumberScheduled=6i numberAvailable=7i numberUnavailable=8i collisionCount=9*i
  conditions=10[]DaemonSetCondition@type%type
DaemonSetUpdateStrategy: type=1s rollingUpdate=2*RollingUpdateDaemonSet
Deployment: metadata=1+meta.ObjectMeta spec=2+DeploymentSpec status=3+DeploymentStatus
DeploymentCondition: type=1+s status=2+s lastUpdateTime=6+t lastTransitionTime=7+t reason=4s message=5s
DeploymentSpec: replicas=1*i selector=2+*meta.LabelSelector template=3+core.PodTemplateSpec
  strategy=4+DeploymentStrategy! minReadySeconds=5i revisionHistoryLimit=6*i paused=7b progressDeadlineSeconds=9*i
DeploymentStatus: observedGeneration=1i replicas=2i updatedReplicas=3i readyReplicas=7i availableReplicas=4i
  unavailableReplicas=5i terminatingReplicas=9*i conditions=6[]DeploymentCondition@type%type collisionCount=8*i
DeploymentStrategy: type=1s rollingUpdate=2*RollingUpdateDeployment
ReplicaSet: metadata=1+meta.ObjectMeta spec=2+ReplicaSetSpec status=3+ReplicaSetStatus
ReplicaSetCondition: type=1+s status=2+s lastTransitionTime=3+t reason=4s message=5s
ReplicaSetSpec: replicas=1*i minReadySeconds=4i selector=2+*meta.LabelSelector template=3+core.PodTemplateSpec
ReplicaSetStatus: replicas=1+i fullyLabeledReplicas=2i readyReplicas=4i availableReplicas=5i terminatingReplicas=7*i
  observedGeneration=3i conditions=6[]ReplicaSetCondition@type%type
RollingUpdateDaemonSet: maxUnavailable=1*o maxSurge=2*o
RollingUpdateDeployment: maxUnavailable=1*o maxSurge=2*o
RollingUpdateStatefulSetStrategy: partition=1*i maxUnavailable=2*o
StatefulSet: metadata=1+meta.ObjectMeta spec=2+StatefulSetSpec status=3+StatefulSetStatus
StatefulSetCondition: type=1+s status=2+s lastTransitionTime=3+t reason=4s message=5s
StatefulSetOrdinals: start=1+i
StatefulSetPersistentVolumeClaimRetentionPolicy: whenDeleted=1s whenScaled=2s
StatefulSetSpec: replicas=1*i selector=2+*meta.LabelSelector template=3+core.PodTemplateSpec
  volumeClaimTemplates=4[]core.PersistentVolumeClaim serviceName=5+s podManagementPolicy=6s
  updateStrategy=7+StatefulSetUpdateStrategy revisionHistoryLimit=8*i minReadySeconds=9i
  persistentVolumeClaimRetentionPolicy=10*StatefulSetPersistentVolumeClaimRetentionPolicy
  ordinals=11*StatefulSetOrdinals
StatefulSetStatus: observedGeneration=1i replicas=2+i readyReplicas=3i currentReplicas=4i updatedReplicas=5i
  currentRevision=6s updateRevision=7s collisionCount=9*i conditions=10[]StatefulSetCondition@type%type
  availableReplicas=11+i
StatefulSetUpdateStrategy: type=1s rollingUpdate=2*RollingUpdateStatefulSetStrategy
"""

BATCH = """
CronJob: metadata=1+meta.ObjectMeta spec=2+CronJobSpec status=3+CronJobStatus
CronJobSpec: schedule=1+s timeZone=8*s startingDeadlineSeconds=2*i concurrencyPolicy=3s suspend=4*b
  jobTemplate=5+JobTemplateSpec successfulJobsHistoryLimit=6*i failedJobsHistoryLimit=7*i
CronJobStatus: active=1[]core.ObjectReference lastScheduleTime=4*t lastSuccessfulTime=5*t
Job: metadata=1+meta.ObjectMeta spec=2+JobSpec status=3+JobStatus
JobCondition: type=1+s status=2+s lastProbeTime=3+t lastTransitionTime=4+t reason=5s message=6s
JobSpec: parallelism=1*i completions=2*i activeDeadlineSeconds=3*i podFailurePolicy=11*PodFailurePolicy
  successPolicy=16*SuccessPolicy backoffLimit=7*i backoffLimitPerIndex=12*i maxFailedIndexes=13*i
  selector=4*meta.LabelSelector manualSelector=5*b template=6+core.PodTemplateSpec ttlSecondsAfterFinished=8*i
  completionMode=9*s suspend=10*b podReplacementPolicy=14*s managedBy=15*s
JobStatus: conditions=1[]JobCondition@type startTime=2*t completionTime=3*t active=4i succeeded=5i failed=6i
  terminating=11*i completedIndexes=7s failedIndexes=10*s uncountedTerminatedPods=8*UncountedTerminatedPods ready=9*i
JobTemplateSpec: metadata=1+meta.ObjectMeta spec=2+JobSpec
PodFailurePolicy: rules=1+[]PodFailurePolicyRule
PodFailurePolicyOnExitCodesRequirement: containerName=1*s operator=2+s values=3+[]i%set
PodFailurePolicyOnPodConditionsPattern: type=1+s status=2+s
PodFailurePolicyRule: action=1+s onExitCodes=2*PodFailurePolicyOnExitCodesRequirement
  onPodConditions=3[]PodFailurePolicyOnPodConditionsPattern
SuccessPolicy: rules=1+[]SuccessPolicyRule
SuccessPolicyRule: succeededIndexes=1*s succeededCount=2*i
UncountedTerminatedPods: succeeded=1[]s%set failed=2[]s%set
"""

AUTOSCALING = """
Scale: metadata=1+meta.ObjectMeta spec=2+ScaleSpec status=3+ScaleStatus
ScaleSpec: replicas=1i
ScaleStatus: replicas=1+i selector=2s
"""

AUTHENTICATION = """
BoundObjectReference: kind=1s apiVersion=2s name=3s uid=4s
SelfSubjectReview: metadata=1+meta.ObjectMeta status=2+SelfSubjectReviewStatus
SelfSubjectReviewStatus: userInfo=1+UserInfo
TokenRequest: metadata=1+meta.ObjectMeta spec=2+TokenRequestSpec status=3+TokenRequestStatus
TokenRequestSpec: audiences=1+[]s expirationSeconds=4+*i boundObjectRef=3+*BoundObjectReference
TokenRequestStatus: token=1+s expirationTimestamp=2+t
TokenReview: metadata=1+meta.ObjectMeta spec=2+TokenReviewSpec status=3+TokenReviewStatus
TokenReviewSpec: token=1s audiences=2[]s
TokenReviewStatus: authenticated=1b user=2+UserInfo audiences=4[]s error=3s
UserInfo: username=1s uid=2s groups=3[]s extra=4{}[]s
"""

AUTHORIZATION = """
FieldSelectorAttributes: rawSelector=1s requirements=2[]meta.FieldSelectorRequirement
LabelSelectorAttributes: rawSelector=1s requirements=2[]meta.LabelSelectorRequirement
LocalSubjectAccessReview: metadata=1+meta.ObjectMeta spec=2+SubjectAccessReviewSpec status=3+SubjectAccessReviewStatus
NonResourceAttributes: path=1s verb=2s
NonResourceRule: verbs=1+[]s nonResourceURLs=2[]s
ResourceAttributes: namespace=1s verb=2s group=3s version=4s resource=5s subresource=6s name=7s
  fieldSelector=8*FieldSelectorAttributes labelSelector=9*LabelSelectorAttributes
ResourceRule: verbs=1+[]s apiGroups=2[]s resources=3[]s resourceNames=4[]s
SelfSubjectAccessReview: metadata=1+meta.ObjectMeta spec=2+SelfSubjectAccessReviewSpec
  status=3+SubjectAccessReviewStatus
SelfSubjectAccessReviewSpec: resourceAttributes=1*ResourceAttributes nonResourceAttributes=2*NonResourceAttributes
SelfSubjectRulesReview: metadata=1+meta.ObjectMeta spec=2+SelfSubjectRulesReviewSpec status=3+SubjectRulesReviewStatus
SelfSubjectRulesReviewSpec: namespace=1s
SubjectAccessReview: metadata=1+meta.ObjectMeta spec=2+SubjectAccessReviewSpec status=3+SubjectAccessReviewStatus
SubjectAccessReviewSpec: resourceAttributes=1*ResourceAttributes nonResourceAttributes=2*NonResourceAttributes user=3s
  groups=4[]s extra=5{}[]s uid=6s
SubjectAccessReviewStatus: allowed=1+b denied=4b reason=2s evaluationError=3s
SubjectRulesReviewStatus: resourceRules=1+[]ResourceRule nonResourceRules=2+[]NonResourceRule incomplete=3+b
  evaluationError=4s
"""

CERTIFICATES = """
CertificateSigningRequest: metadata=1+meta.ObjectMeta spec=2+CertificateSigningRequestSpec
  status=3+CertificateSigningRequestStatus
CertificateSigningRequestCondition: type=1+s status=6+s reason=2s message=3s lastUpdateTime=4+t lastTransitionTime=5+t
CertificateSigningRequestSpec: request=1+y signerName=7+s expirationSeconds=8*i usages=5[]s username=2s uid=3s
  groups=4[]s extra=6{}[]s
CertificateSigningRequestStatus: conditions=1[]CertificateSigningRequestCondition%type certificate=2y
"""

COORDINATION = """
Lease: metadata=1+meta.ObjectMeta spec=2+LeaseSpec
LeaseSpec: holderIdentity=1*s leaseDurationSeconds=2*i acquireTime=3*u renewTime=4*u leaseTransitions=5*i strategy=6*s
  preferredHolder=7*s
"""

DISCOVERY = """
Endpoint: addresses=1+[]s%set conditions=2+EndpointConditions hostname=3*s targetRef=4*core.ObjectReference
  deprecatedTopology=5{}s nodeName=6*s zone=7*s hints=8*EndpointHints
EndpointConditions: ready=1*b serving=2*b terminating=3*b
EndpointHints: forZones=1[]ForZone forNodes=2[]ForNode
EndpointPort: name=1*s protocol=2*s port=3*i appProtocol=4*s
EndpointSlice: metadata=1+meta.ObjectMeta addressType=4+s endpoints=2+[]Endpoint ports=3+[]EndpointPort
ForNode: name=1+s
ForZone: name=1+s
"""

EVENTS = """
Event: metadata=1+meta.ObjectMeta eventTime=2+u series=3*EventSeries reportingController=4s reportingInstance=5s
  action=6s reason=7s regarding=8+core.ObjectReference related=9*core.ObjectReference note=10s type=11s
  deprecatedSource=12+core.EventSource deprecatedFirstTimestamp=13+t deprecatedLastTimestamp=14+t deprecatedCount=15i
EventSeries: count=1+i lastObservedTime=2+u
"""

NETWORKING = """
HTTPIngressPath: path=1s pathType=3+*s backend=2+IngressBackend
HTTPIngressRuleValue: paths=1+[]HTTPIngressPath
IPBlock: cidr=1+s except=2[]s
Ingress: metadata=1+meta.ObjectMeta spec=2+IngressSpec status=3+IngressStatus
IngressBackend: service=4*IngressServiceBackend resource=3*core.TypedLocalObjectReference
IngressClass: metadata=1+meta.ObjectMeta spec=2+IngressClassSpec
IngressClassParametersReference: apiGroup=1*s kind=2+s name=3+s scope=4+*s namespace=5*s
IngressClassSpec: controller=1s parameters=2*IngressClassParametersReference
IngressLoadBalancerIngress: ip=1s hostname=2s ports=4[]IngressPortStatus
IngressLoadBalancerStatus: ingress=1[]IngressLoadBalancerIngress
IngressPortStatus: port=1+i protocol=2+s error=3*s
IngressRule: host=1s .ingressRuleValue=2IngressRuleValue
IngressRuleValue: http=1*HTTPIngressRuleValue
IngressServiceBackend: name=1+s port=2+ServiceBackendPort
IngressSpec: ingressClassName=4*s defaultBackend=1*IngressBackend tls=2[]IngressTLS rules=3[]IngressRule
IngressStatus: loadBalancer=1+IngressLoadBalancerStatus
IngressTLS: hosts=1[]s secretName=2s
NetworkPolicy: metadata=1+meta.ObjectMeta spec=2+NetworkPolicySpec
NetworkPolicyEgressRule: ports=1[]NetworkPolicyPort to=2[]NetworkPolicyPeer
NetworkPolicyIngressRule: ports=1[]NetworkPolicyPort from=2[]NetworkPolicyPeer
NetworkPolicyPeer: podSelector=1*meta.LabelSelector namespaceSelector=2*meta.LabelSelector ipBlock=3*IPBlock
NetworkPolicyPort: protocol=1*s port=2*o endPort=3*i
NetworkPolicySpec: podSelector=1+meta.LabelSelector ingress=2[]NetworkPolicyIngressRule
  egress=3[]NetworkPolicyEgressRule policyTypes=4[]s
ServiceBackendPort: name=1s number=2i
"""

NODE = """
Overhead: podFixed=1{}q
RuntimeClass: metadata=1+meta.ObjectMeta handler=2+s overhead=3*Overhead scheduling=4*Scheduling
Scheduling: nodeSelector=1{}s%atomic tolerations=2[]core.Toleration
"""

POLICY = """
Eviction: metadata=1+meta.ObjectMeta deleteOptions=2*meta.DeleteOptions
PodDisruptionBudget: metadata=1+meta.ObjectMeta spec=2+PodDisruptionBudgetSpec status=3+PodDisruptionBudgetStatus
PodDisruptionBudgetSpec: minAvailable=1*o selector=2*meta.LabelSelector~ maxUnavailable=3*o
  unhealthyPodEvictionPolicy=4*s
PodDisruptionBudgetStatus: observedGeneration=1i disruptedPods=2{}t disruptionsAllowed=3+i currentHealthy=4+i
  desiredHealthy=5+i expectedPods=6+i conditions=7[]meta.Condition@type%type
"""

RBAC = """
AggregationRule: clusterRoleSelectors=1[]meta.LabelSelector
ClusterRole: metadata=1+meta.ObjectMeta rules=2+[]PolicyRule aggregationRule=3*AggregationRule
ClusterRoleBinding: metadata=1+meta.ObjectMeta subjects=2[]Subject roleRef=3+RoleRef
PolicyRule: verbs=1+[]s apiGroups=2[]s resources=3[]s resourceNames=4[]s nonResourceURLs=5[]s
Role: metadata=1+meta.ObjectMeta rules=2+[]PolicyRule
RoleBinding: metadata=1+meta.ObjectMeta subjects=2[]Subject roleRef=3+RoleRef
RoleRef: apiGroup=1+s kind=2+s name=3+s
Subject: kind=1+s apiGroup=2s name=3+s namespace=4s
"""

SCHEDULING = """
PriorityClass: metadata=1+meta.ObjectMeta value=2+i globalDefault=3b description=4s preemptionPolicy=5*s
"""

STORAGE = """
CSIDriver: metadata=1+meta.ObjectMeta spec=2+CSIDriverSpec
CSIDriverSpec: attachRequired=1*b podInfoOnMount=2*b volumeLifecycleModes=3[]s%set storageCapacity=4*b
  fsGroupPolicy=5*s tokenRequests=6[]TokenRequest requiresRepublish=7*b seLinuxMount=8*b
  nodeAllocatableUpdatePeriodSeconds=9*i serviceAccountTokenInSecrets=10*b preventPodSchedulingIfMissing=11*b
CSINode: metadata=1+meta.ObjectMeta spec=2+CSINodeSpec
CSINodeDriver: name=1+s nodeID=2+s topologyKeys=3+[]s allocatable=4*VolumeNodeResources
CSINodeSpec: drivers=1+[]CSINodeDriver@name%name
StorageClass: metadata=1+meta.ObjectMeta provisioner=2+s parameters=3{}s reclaimPolicy=4*s mountOptions=5[]s
  allowVolumeExpansion=6*b volumeBindingMode=7*s allowedTopologies=8[]core.TopologySelectorTerm
TokenRequest: audience=1+s expirationSeconds=2*i
VolumeAttachment: metadata=1+meta.ObjectMeta spec=2+VolumeAttachmentSpec status=3+VolumeAttachmentStatus
VolumeAttachmentSource: persistentVolumeName=1*s inlineVolumeSpec=2*core.PersistentVolumeSpec
VolumeAttachmentSpec: attacher=1+s source=2+VolumeAttachmentSource nodeName=3+s
VolumeAttachmentStatus: attached=1+b attachmentMetadata=2{}s attachError=3*VolumeError detachError=4*VolumeError
VolumeError: time=1+t message=2s errorCode=3*i
VolumeNodeResources: count=1*i
"""
